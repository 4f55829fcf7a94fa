import json
import pathlib
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.model_files.errors import ModelFileError
from pipeline.separation.demucs_weights import load_separator

SMALL = {"sources": ["accompaniment", "vocals"], "channels": 4, "depth": 4, "t_layers": 1, "t_heads": 2, "segment": 2}


def small_model():
    from demucs.htdemucs import HTDemucs

    model = HTDemucs(**SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def write_folder(folder, model, config=SMALL):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def write_bag(folder, model, klass="demucs.htdemucs.HTDemucs", structure=None, settings=SMALL):
    folder.mkdir(exist_ok=True)
    metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(settings)}
    if structure is not None:
        metadata["structure"] = json.dumps(structure)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "955717e8.safetensors", metadata=metadata)
    (folder / "small.yaml").write_text(yaml.safe_dump({"models": ["955717e8"]}))


def test_a_folder_of_ours_and_one_of_the_hub_load_the_same_model(tmp_path):
    torch.manual_seed(0)
    model = small_model()
    write_folder(tmp_path / "ours", model)
    write_bag(tmp_path / "hub", model)
    ours, bag = load_separator(tmp_path / "ours"), load_separator(tmp_path / "hub")
    assert bag.sources == ours.sources == SMALL["sources"]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, bag.models[0].state_dict()[name])


def test_a_class_that_a_file_names_is_not_imported(tmp_path):
    write_bag(tmp_path / "hub", small_model(), klass="subprocess.Popen")
    with pytest.raises(ModelFileError, match="subprocess"):
        load_separator(tmp_path / "hub")
    write_bag(tmp_path / "hub", small_model(), structure={"_dict": [["x", {"_class": "os.system"}]]})
    with pytest.raises(ModelFileError, match=r"955717e8\.safetensors: quantised weights"):
        load_separator(tmp_path / "hub")


CONVOLUTION = "encoder.0.conv.weight"


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize("write", [write_folder, write_bag])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(CONVOLUTION), f"{CONVOLUTION} is missing"),
        (lambda state: state | {"extra.weight": torch.zeros(2)}, r"extra\.weight is unexpected"),
        (lambda state: state | {CONVOLUTION: torch.zeros(3, 4)}, rf"{CONVOLUTION} has shape \(3, 4\), expected \(4, "),
        (
            lambda state: state | {CONVOLUTION: torch.zeros_like(state[CONVOLUTION], dtype=torch.int32)},
            rf"{CONVOLUTION} is torch\.int32, expected floating-point numbers",
        ),
        (
            lambda state: state | {CONVOLUTION: torch.full_like(state[CONVOLUTION], torch.nan)},
            f"{CONVOLUTION} holds values that are not finite",
        ),
    ],
    ids=["missing", "extra", "shape", "integers", "nan"],
)
def test_weights_that_do_not_fit_are_named(tmp_path, write, change, message):
    model = small_model()
    state = change(model.state_dict())
    write(tmp_path / "x", SimpleNamespace(state_dict=lambda: state))
    with pytest.raises(ModelFileError, match=rf"x/\w+\.safetensors does not fit its config: {message}"):
        load_separator(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 8}, r"has shape \(32,\), expected \(64,\)"),
        ({"chanels": 8}, "chanels"),
        ({"channels": 10**9}, "channels is 1000000000, expected -65536 to 65536"),
        ({"channels": 60_000, "depth": 64}, "cannot be built|has shape"),
        ({"depth": 10**9}, "depth is 1000000000"),
        ({"t_layers": 10**9}, "t_layers is 1000000000"),
        ({"segment": 1e12}, "segment is 1000000000000.0, expected 1/10 to 600"),
        ({"segment": "long"}, "segment is 'long', expected a number"),
        ({"samplerate": 0}, "samplerate is 0, expected 1 to 192000"),
        ({"nfft": 10**12}, "nfft is 1000000000000"),
        ({"sources": "vocals"}, "sources 'vocals', expected a list of names"),
        ({"t_layers": None}, "cannot be built"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, change, message):
    write_folder(tmp_path / "x", small_model(), SMALL | change)
    with pytest.raises(ModelFileError, match=rf"x/.*{message}"):
        load_separator(tmp_path / "x")


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["model.safetensors", "955717e8.safetensors"])
def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(tmp_path, name):
    target, folder = tmp_path / "executed", tmp_path / "x"
    write_folder(folder, small_model()) if name == "model.safetensors" else write_bag(folder, small_model())
    torch.save(Payload(target), folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}: .*; expected .* as safetensors"):
        load_separator(folder)
    (folder / name).unlink()
    torch.save(Payload(target), folder / "955717e8.th")  # the format that Demucs' own command line unpickles
    with pytest.raises(ModelFileError, match=r"x: \S*\.safetensors missing; expected a folder with"):
        load_separator(folder)
    assert not target.exists()
    torch.load(folder / "955717e8.th", weights_only=False)
    assert target.exists()  # so the payload would have worked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "expected a list 'models'"),
        ({"models": 7}, "expected a list 'models'"),
        ({"weights": [[1, 2, 3]]}, r"weights \[\[1, 2, 3\]\], expected 2 numbers for each of 1"),
        ({"weights": [[0, 1]]}, "weights"),
        ({"segment": -1}, "segment -1, expected seconds"),
        ({"segment": ".inf"}, "segment"),
        ({"models": ["!!python/object/apply:os.system ['x']"]}, "signatures"),
    ],
)
def test_a_list_of_models_that_does_not_fit(tmp_path, change, message):
    write_bag(tmp_path / "hub", small_model())
    (tmp_path / "hub" / "small.yaml").write_text(yaml.safe_dump({"models": ["955717e8"]} | change))
    with pytest.raises(ModelFileError, match=rf"small\.yaml: .*{message}"):
        load_separator(tmp_path / "hub")


def test_a_yaml_that_would_run_code_is_refused(tmp_path):
    write_bag(tmp_path / "hub", small_model())
    target = tmp_path / "executed"
    (tmp_path / "hub" / "small.yaml").write_text(f"models: !!python/object/apply:pathlib.Path.touch [{target}]")
    with pytest.raises(ModelFileError, match=r"small\.yaml: anchors, aliases or tags"):
        load_separator(tmp_path / "hub")
    assert not target.exists()


def test_settings_that_demucs_has_given_up_are_left_out(tmp_path, caplog):
    write_bag(tmp_path / "hub", small_model(), settings=SMALL | {"given_up": 3})
    assert load_separator(tmp_path / "hub").sources == SMALL["sources"]
    assert "given_up" in caplog.text


def test_signatures_stay_in_their_folder(tmp_path):
    write_bag(tmp_path / "hub", small_model())
    (tmp_path / "hub" / "small.yaml").write_text(yaml.safe_dump({"models": ["../hub/955717e8"]}))
    with pytest.raises(ModelFileError, match="signatures"):
        load_separator(tmp_path / "hub")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), "x: expected a folder with config.json"),
        (lambda folder: (folder / "small.yaml").unlink(), r"x: .* missing; expected a folder with config\.json"),
        (lambda folder: (folder / "other.yaml").write_text("models: [a]"), "2 yaml files, expected one that lists"),
        (
            lambda folder: (folder / "small.yaml").write_text("models: [a, b]"),
            r"a\.safetensors, b\.safetensors missing",
        ),
    ],
    ids=["folder", "list", "lists", "member"],
)
def test_what_is_missing_is_named(tmp_path, change, message):
    write_bag(tmp_path / "x", small_model())
    (tmp_path / "x" / "ffffffff.safetensors").write_bytes(b"of another bag")
    assert load_separator(tmp_path / "x").sources == SMALL["sources"]
    change(tmp_path / "x")
    with pytest.raises(ModelFileError, match=message):
        load_separator(tmp_path / "x")
