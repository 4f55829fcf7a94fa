import pytest

from pipeline.lyrics.language import identify_text, scripts_of_language, stated_language

SAMPLES = {
    "pl": [
        "Czekam na ciebie przy oknie\nŻe już świt, a ja wciąż śpię",
        "Nie mów mi, że to już koniec\nbo ja tylko ciebie mam",
        "Deszcz pada na miasto, a my idziemy przez noc\ni nikt nie wie, dokąd",
    ],
    "tr": [
        "Bu gece yine seni düşündüm\nYağmur yağıyor, sen yoksun",
        "Ben sana mecburum bilemezsin\nadını mıh gibi aklımda tutuyorum",
        "Gel bana bir gün daha ver\nher şey senin için",
    ],
    "nl": [
        "Ik loop alleen door de straten van de stad\nen ik denk nog steeds aan jou",
        "Het regent op het raam en jij bent niet hier\nmaar ik wacht op je",
        "Laat me niet gaan, zeg wat je voelt",
    ],
    "sv": [
        "Jag går hem genom regnet och tänker på dig\ndet är så tyst här",
        "Du är allt jag vill ha när natten är kall",
        "Solen går ner över staden, och vi dansar som om ingen ser oss",
    ],
    "pt": [
        "Eu não sei mais o que fazer sem você\no meu coração é teu",
        "A chuva cai na janela e eu espero por ti",
        "Vem comigo ver o mar, que a noite é nossa",
    ],
    "id": [
        "Aku tak bisa melupakan dirimu\nhujan turun di malam ini",
        "Kau yang ada di hatiku, jangan pergi dari sini",
        "Bila nanti kita bertemu lagi, aku akan menunggu",
    ],
    "vi": [
        "Anh nhớ em nhiều lắm trong đêm mưa này\nkhông có ai bên anh",
        "Ngày mai em đi biển nhớ tên em gọi về",
        "Nếu một ngày ta xa nhau, anh vẫn chờ",
    ],
    "fa": [
        "می‌خواهم با تو باشم\nباران می‌بارد",
        "دلم گرفته است از این شب های تنهایی",
        "تو را من چشم در راهم",
    ],
    "ar": [
        "أنا أنتظرك تحت المطر\nيا حبيبي لا تذهب",
        "البحر بعيد والليل طويل",
        "في قلبي حكاية من زمان",
    ],
    "ur": [
        "میں تمہارے بغیر نہیں رہ سکتا\nیہ دل تیرا ہے",
    ],
    "uk": [
        "Я чекаю на тебе біля вікна\nдощ іде, а ти спиш",
        "Ой у лузі червона калина похилилася",
        "Моя любов, не йди від мене у ніч",
    ],
    "ru": [
        "Река открывает двери",
        "Я жду тебя у окна, дождь идёт",
        "Где-то там за морями ты",
        "Мама, не плачь, я приду домой",
    ],
    "bg": [
        "Чакам те до прозореца, вали дъжд\nкъде си сега",
    ],
    "sr": [
        "Чекам те поред прозора, киша пада\nа ти још спаваш љубави моја",
    ],
    "cs": [
        "Čekám na tebe u okna, prší\na já vím, že už nepřijdeš",
        "Nech mě být, když jsi sám",
    ],
    "ro": [
        "Te aștept la fereastră, plouă\nși nu știu ce să fac",
    ],
    "hu": [
        "Várok rád az ablaknál, esik az eső\nés nem tudom, hogy jössz-e még",
    ],
    "fi": [
        "Odotan sinua ikkunan luona, sataa\nja minä en tiedä missä sinä olet",
    ],
    "da": [
        "Jeg venter på dig ved vinduet, og det regner\nhvad skal jeg gøre nu",
    ],
    "no": [
        "Jeg venter på deg ved vinduet, og det regner\nhva skal jeg gjøre nå",
    ],
    "tl": [
        "Hinihintay kita sa tabi ng bintana\nhindi ko alam kung nasaan ka",
    ],
    "zh": [
        "我喺度等緊你 落緊雨 你唔好走",
        "請你帶我回到那個家",
    ],
    "ja": [
        "雨が降る",
        "永遠のさよなら",
    ],
    "ko": [
        "창밖에 비가 내려요",
    ],
    "hi": [
        "बारिश हो रही है और मैं तुम्हारा इंतज़ार करता हूँ",
    ],
    "th": [
        "ฝนตกที่หน้าต่าง",
    ],
    "el": [
        "Σε περιμένω στο παράθυρο, βρέχει",
    ],
    "he": [
        "אני מחכה לך ליד החלון",
    ],
    "en": [
        "Rain on the window and I wait for you",
        "Walking home again under the rain by the sea",
        "Oh baby, don't you go, the night is young",
        "I'm on my way, hold me tight",
    ],
    "es": [
        "Te espero en la ventana y no sé si vendrás",
        "Mi corazón es tuyo, no me dejes solo",
        "Bailando bajo la lluvia hasta que salga el sol",
    ],
    "fr": [
        "Je t'attends à la fenêtre, il pleut",
        "Ne me quitte pas, il faut oublier",
        "Sous le ciel de la ville on danse dans la nuit",
    ],
    "de": [
        "Ich warte auf dich am Fenster, es regnet",
        "Komm zurück zu mir, ich brauche dich",
        "Wir tanzen durch die Nacht, und keiner sieht uns",
    ],
    "it": [
        "Ti aspetto alla finestra, piove\ne non so più che fare",
        "Il mare è lontano, ma io ti sento",
        "Con te partirò, su navi per mari",
    ],
    "": [
        "la la la la la",
        "changbakke biga naeryeoyo\nnaneun neoreul gidaryeoyo",
        "yoake ni kogu\nminato wa nemuru\ndare mo yobanai\nshio ga hiku",
        "chuang wai xia zhe yu wo du zhe na feng xin",
        "na na na hey hey",
        "1 2 3",
        "kimi no koe wo omoidasu\nsora no iro wa mada aoi no ni",
        "wo ai ni ni ai wo ma",
        "Čekam te kraj prozora, kiša pada\na ti još spavaš ljubavi moja",
    ],
}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The river opens every door and I will follow you to the sea", "en"),
        ("Las gatas solo piden perreo y el que no baile se va de la pista", "es"),
        ("Je ne sais pas où tu vas mais je te suis dans la nuit", "fr"),
        ("Ich weiß nicht wo du bist und der Regen fällt auf mein Haus", "de"),
        ("河流打开每一扇门 我会跟着你走 oh yeah", "zh"),
        ("川がすべての扉を開ける", "ja"),
        ("강은 모든 문을 연다", "ko"),
        ("Река открывает двери", "ru"),
        ("la la la la la", ""),
        ("", ""),
        ("1 2 3 !!", ""),
    ],
)
def test_script_and_function_words_tell(text, code):
    assert identify_text(text) == code


def test_songs_at_hand(shared):
    expected = {"Guayeteo": "es", "Séculaire": "fr", "Veränderung": "de", "de_bonne": "fr", "muse_zh": "zh"}
    for path in (shared / "songs_real" / "lyrics").glob("*.txt"):
        if not path.name.endswith(".words.txt"):
            code = next(code for name, code in expected.items() if path.name.startswith(name))
            assert identify_text(path.read_text()) == code


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SAMPLES.items() for text in texts])
def test_made_lines_of_many_languages(code, text):
    assert identify_text(text) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("EN", "en"),
        ("eng", "en"),
        ("zh-CN", "zh"),
        ("Chinese (Simplified)", "zh"),
        ("yue", "zh"),
        ("pt_BR", "pt"),
        ("Deutsch", "de"),
        ("日本語", "ja"),
        ("jpn", "ja"),
        ("iw", "he"),
        ("nan", ""),  # a missing value more often than Min Nan
        ("Klingon", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_what_a_file_states_becomes_a_code_or_nothing(name, code):
    assert stated_language(name) == code


def test_scripts_of_languages():
    assert scripts_of_language("ja") == ("kana", "han")
    assert scripts_of_language("fa") == ("arabic",)
    assert scripts_of_language("sv") == ("latin",)
