import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.models import ModelFileError, ModelNotFoundError
from pipeline.separator_weights import load_separator

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


def write_bag(folder, model, klass="demucs.htdemucs.HTDemucs", structure=None):
    folder.mkdir(exist_ok=True)
    metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(SMALL)}
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
    ours, bag = load_separator(str(tmp_path / "ours")), load_separator(str(tmp_path / "hub"))
    assert bag.sources == ours.sources == SMALL["sources"]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, bag.models[0].state_dict()[name])


def test_a_class_that_a_file_names_is_not_imported(tmp_path):
    write_bag(tmp_path / "hub", small_model(), klass="subprocess.Popen")
    with pytest.raises(ModelFileError, match="subprocess"):
        load_separator(str(tmp_path / "hub"))
    write_bag(tmp_path / "hub", small_model(), structure={"_dict": [["x", {"_class": "os.system"}]]})
    with pytest.raises(ModelFileError, match="names a class"):
        load_separator(str(tmp_path / "hub"))


def test_weights_that_do_not_fit_are_named(tmp_path):
    write_folder(tmp_path / "x", small_model(), SMALL | {"channels": 8})
    with pytest.raises(ModelFileError, match="fits its config"):
        load_separator(str(tmp_path / "x"))
    write_folder(tmp_path / "x", small_model(), SMALL | {"chanels": 8})
    with pytest.raises(ModelFileError, match="chanels"):
        load_separator(str(tmp_path / "x"))
    (tmp_path / "x" / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelFileError):
        load_separator(str(tmp_path / "x"))


def test_signatures_stay_in_their_folder(tmp_path):
    write_bag(tmp_path / "hub", small_model())
    (tmp_path / "hub" / "small.yaml").write_text(yaml.safe_dump({"models": ["../hub/955717e8"]}))
    with pytest.raises(ModelFileError, match="signatures"):
        load_separator(str(tmp_path / "hub"))


def test_a_model_that_is_not_there():
    with pytest.raises(ModelNotFoundError, match="htdemucs_ft"):
        load_separator("htdemucs_ft")
