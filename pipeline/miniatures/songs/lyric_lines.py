"""Original lyric lines in rhymed couplets: hand-written ones and templates filled with plain words."""

import numpy as np

VERSES = (
    ("The morning train is leaving from the station", "I wrote my name inside a conversation"),
    ("A yellow kite is caught above the cable", "Your letter waits unopened on the table"),
    ("The baker leaves the window open wide", "And all the winter sunlight walks inside"),
    ("I carried water up the northern hill", "The valley underneath was green and still"),
    ("We painted every door along the street", "And left a trail of color from our feet"),
    ("My brother keeps a garden on the roof", "With tiny silver tools and muddy boots"),
    ("The ferry turns its lantern to the shore", "I never saw the harbor lights before"),
    ("A cricket plays its fiddle in the hay", "And nobody is asking it to stay"),
    ("The teacher drew a planet on the wall", "We learned about the way that apples fall"),
    ("Her bicycle is sleeping in the rain", "The puddles make a mirror of the lane"),
    ("I found a button underneath the chair", "The color of the sweater that you wear"),
    ("The kettle has been singing since the dawn", "The shadow of the maple left the lawn"),
    ("We counted seven ships along the bay", "And gave them all a name and sailed away"),
    ("The city has a thousand sleepy eyes", "That open when the early sparrows rise"),
    ("I borrowed half a dollar from the moon", "And promised I would pay it back by June"),
    ("The clock above the market lost its hand", "So nobody is late in all the land"),
    ("The orchard keeps a ladder in the shade", "I tasted every apple that it made"),
    ("A pocket full of pebbles from the creek", "Will tell you all the stories that I keep"),
    ("Grandmother kept her buttons in a jar", "And one of them was shining like a star"),
    ("The snow came down on Sunday after nine", "And covered up the garden and the line"),
)
CHORUSES = (
    ("Carry me over the river tonight", "Carry me into the window of light"),
    ("Oh turn the lantern slowly around", "Show me the road to the sleeping town"),
    ("Nobody dances the way that we do", "Under a ceiling of silver and blue"),
    ("Open the door and the summer will run", "Over the fields with a face like the sun"),
    ("Hold on to me when the water is high", "Hold on to me when the birds leave the sky"),
    ("We are the echo that comes after rain", "We are the whistle that follows the train"),
    ("Give me a reason to wait for the bus", "Give me a morning belonging to us"),
    ("Run with the wind and be home before dark", "Run with the dog to the end of the park"),
    ("This is the song that I wanted to sing", "This is the bell that I wanted to ring"),
    ("Slowly the mountain is learning my name", "Slowly the candle is learning the flame"),
)
PLACES = ("garden", "station", "market", "harbor", "kitchen", "valley", "river", "window", "corner", "mountain")
THINGS = ("lantern", "letter", "candle", "blanket", "basket", "feather", "pencil", "ladder", "marble", "ribbon")
COLORS = ("yellow", "silver", "purple", "golden", "scarlet", "crimson")
RHYMES = (
    ("day", "way"), ("night", "light"), ("sky", "high"), ("door", "floor"), ("rain", "train"), ("song", "long"),
    ("blue", "true"), ("town", "down"), ("hand", "sand"), ("tree", "sea"), ("home", "stone"), ("fire", "wire"),
)  # fmt: skip
TEMPLATES = (
    ("I left the {color} {thing} beside the {a}", "And walked around the {place} until the {b}"),
    ("There is a {thing} hidden in the {place} by the {a}", "It waits for someone looking for the {b}"),
    ("You gave the {thing} to the people of the {a}", "I saw it in the {place} near the {b}"),
    ("The {place} has a {color} {thing} and a {a}", "And every little story has a {b}"),
    ("Somebody in the {place} told me of the {a}", "Somebody with a {thing} and a {b}"),
    ("A {color} {thing} is turning in the {a}", "The people of the {place} love the {b}"),
)


def write_couplet(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return two rhyming lines for a section of this kind; half of the verses and bridges come from templates."""
    if kind == "chorus":
        return CHORUSES[rng.integers(len(CHORUSES))]
    if rng.random() < 0.5:
        return VERSES[rng.integers(len(VERSES))]
    first, second = TEMPLATES[rng.integers(len(TEMPLATES))]
    a, b = RHYMES[rng.integers(len(RHYMES))]
    words = {
        "place": PLACES[rng.integers(len(PLACES))], "thing": THINGS[rng.integers(len(THINGS))],
        "color": COLORS[rng.integers(len(COLORS))], "a": a, "b": b,
    }  # fmt: skip
    return first.format(**words), second.format(**words)
