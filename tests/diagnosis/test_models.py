"""Generators and discriminators from code, weights and program files; no payload in them runs."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from input_files import Payload, tensor
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from stabilgan.diagnosis import InputError
from stabilgan.diagnosis.inputs import load
from stabilgan.diagnosis.models import Generator, load_discriminator, load_generator

CODE = '''
import torch
from torch import nn

class Convolutions(nn.Module):
    def __init__(self, ngpu):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())

    def forward(self, input):
        return self.main(input)

class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.label_emb = nn.Embedding(10, 10)
        self.model = nn.Sequential(nn.Linear(30, 64), nn.Tanh())

    def forward(self, noise, labels):
        return self.model(torch.cat((self.label_emb(labels), noise), -1)).view(-1, 1, 8, 8)

class Backwards(nn.Module):
    """Its layers are built in another order than they run."""
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(9, 2)
        self.first = nn.Linear(5, 9)

    def forward(self, z):
        return self.last(self.first(z).relu())

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, z):
        return self.layer(z) + torch.randn(len(z), 2)

class Strange(nn.Module):
    def forward(self, z):
        raise KeyError("nothing works")

def make(width: int = 8):
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 784), nn.Sigmoid())

def double(z):
    return z * 2

def broken(n: int = 1):
    raise RuntimeError("no such thing")

seven = 7
'''


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "code.py").write_text(CODE)
    return str(tmp_path / "code.py")


def refused(match: str, *args: Any, call: Any = load_generator, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)


def said(generator: Generator) -> str:
    return "; ".join(generator.notes)


def test_a_generator_of_convolutions_is_built_and_its_latent_found(code: str) -> None:
    made = load_generator(f"{code}:Convolutions:ngpu=1")
    assert made.latent_shape == (16, 1, 1)
    assert made.scale == (-1, 1)
    samples = made.samples(12, seed=3)
    assert samples.x.shape == (12, 3, 8, 8)
    assert torch.allclose(samples.x, (made.draw(12, 3) + 1) / 2, atol=1e-6)
    assert not made.module.training if made.module else False


def test_options_are_checked_by_name_and_type(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_generator(f"{code}:make:width=9").draw(2).shape == (2, 784)
    refused("no option named 'widht'; did you mean 'width'", f"{code}:make:widht=9")
    refused("expected a whole number", f"{code}:make:width=nine")
    refused("Convolutions needs ngpu; give it: .*:ngpu=", f"{code}:Convolutions")
    refused("did you mean 'make'", f"{code}:mak")
    refused("there is no file", f"{code[:-3]}x.py:make")
    refused("raised RuntimeError: no such thing", f"{code}:broken")
    refused("gave a int; expected a torch.nn.Module", f"{code}:seven")
    refused("expected package.module:callable", "resnet")
    assert load_generator("torch.nn:Linear:in_features=3:out_features=2").latent_shape == (3,)
    (Path(code).parent / "beside_the_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(Path(code).parent)
    assert load_generator("beside_the_code:make:width=9").latent_shape == (5,)
    refused("can't import 'no_such_package'", "no_such_package:make")


def test_rows_become_images_in_the_range_of_the_last_layer(code: str) -> None:
    made = load_generator(f"{code}:make")
    real = load(tensor(10, 1, 28, 28))
    samples = made.samples(10, like=real)
    assert samples.x.shape == (10, 1, 28, 28)
    assert samples.scale == (0, 1)
    assert torch.equal(samples.x.flatten(1), made.draw(10))


def test_the_first_layer_is_the_one_that_runs_first(code: str) -> None:
    assert load_generator(f"{code}:Backwards").latent_shape == (5,)


def test_labels_of_a_conditional_generator_are_drawn_evenly(code: str) -> None:
    made = load_generator(f"{code}:Conditional")
    assert (made.latent_shape, made.classes) == ((20,), 10)
    samples = made.samples(500)
    assert samples.labels is not None
    assert samples.labels.bincount(minlength=10).min() >= 25
    assert "labels drawn evenly from 10 classes" in said(made)


def test_a_function_of_latents_needs_their_size(code: str) -> None:
    refused("a function says nothing of what it takes", f"{code}:double")
    made = load_generator(f"{code}:double", latent=2)
    assert torch.equal(made.draw(20, 1), made.latents(20, 1) * 2)
    assert made.module is None


def test_a_wrong_latent_is_one_line_with_the_right_one(code: str) -> None:
    refused("its first layer is Linear and takes 5 values", f"{code}:make", latent=6)
    refused("expected sizes of at least 1", f"{code}:make", latent=0)
    refused("nothing works", f"{code}:Strange", latent=3)
    picture = nn.Conv2d(3, 3, 3, padding=1)
    refused("takes pictures of 3 channels, not a latent", picture)


def test_the_same_seed_draws_the_same_and_leaves_the_global_generator_alone(code: str) -> None:
    made = load_generator(f"{code}:Noisy")
    before = torch.get_rng_state()
    first, again, other = made.draw(600, 1), made.draw(600, 1), made.draw(600, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first.unique(dim=0)) == 600


def test_training_mode_leaves_the_statistics_alone(code: str) -> None:
    made = load_generator(f"{code}:Convolutions:ngpu=1", train=True)
    assert made.module is not None
    before = {k: v.clone() for k, v in made.module.state_dict().items()}
    first = made.draw(20)
    assert all(torch.equal(v, before[k]) for k, v in made.module.state_dict().items())
    assert torch.equal(first, made.draw(20))
    assert not torch.allclose(first, load_generator(made.module).draw(20))


def test_gradients_flow_through_generate() -> None:
    made = load_generator(nn.Linear(3, 2))
    z = made.latents(4, 0).requires_grad_()
    made.generate(z).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_output_that_is_not_finite_is_kept_and_named() -> None:
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, torch.nan)
    assert load_generator(net).samples(10).nonfinite == tuple(range(10))


def test_weights_are_found_in_checkpoints_under_any_prefix(code: str, tmp_path: Path) -> None:
    target = f"{code}:Convolutions:ngpu=1"
    net = load_generator(target).module
    assert net is not None
    state = net.state_dict()
    other = {k: v + 1 for k, v in state.items()}
    d = {"main.0.weight": torch.zeros(3)}
    files: dict[str, Any] = {
        "plain": state,
        "ddp": {f"module.{k}": v for k, v in state.items()},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "nested": {"epoch": 3, "netD": d, "netG": state, "optimizer": {"state": {}, "param_groups": []}},
        "ema": {"g": other, "g_ema": state},
        "lightning": {
            "state_dict": {f"generator.{k}": v for k, v in state.items()}
            | {f"discriminator.{k}": v for k, v in d.items()}
        },
        "averaged": {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()},
        "inner": {k.removeprefix("main."): v for k, v in state.items()},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
        made = load_generator(target, tmp_path / f"{name}.pt")
        assert made.module is not None
        assert all(torch.equal(v, state[k]) for k, v in made.module.state_dict().items()), name
    assert "prefix 'generator.' of the keys taken off" in said(load_generator(target, tmp_path / "lightning.pt"))
    assert "the averaged weights taken" in said(load_generator(target, tmp_path / "ema.pt"))
    save_file(state, tmp_path / "a.safetensors")
    assert "weights from a.safetensors" in said(load_generator(target, tmp_path / "a.safetensors"))


def test_weights_that_do_not_fit_say_which(code: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 784))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    refused(
        r"of 4 weights 1 fit, 3 of another shape \(0\.weight is \(9, 5\) in the file and \(8, 5\) in the model\)",
        f"{code}:make",
        tmp_path / "a.pt",
    )
    torch.save({"0.weight": torch.zeros(8, 5), "spare": torch.zeros(2)}, tmp_path / "b.pt")
    refused(
        r"1 fit, 3 missing \(0\.bias, 2\.weight, 2\.bias\), 1 unexpected \(spare\)", f"{code}:make", tmp_path / "b.pt"
    )
    torch.save({"epoch": 3}, tmp_path / "c.pt")
    refused(r"holds no state dict \(keys epoch\)", f"{code}:make", tmp_path / "c.pt")
    refused("can't be loaded into .*: it is a program or a function", f"{code}:double", tmp_path / "a.pt", latent=2)


def test_weights_with_nan_are_loaded_and_said(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    torch.save({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, tmp_path / "a.pt")
    assert "nan or infinity in 1 of 2 weights, the first weight" in said(load_generator(net, tmp_path / "a.pt"))


def test_no_pickle_among_weights_or_models_is_run(code: str, tmp_path: Path) -> None:
    ran, evil = tmp_path / "ran", Payload(tmp_path / "ran")
    torch.save(evil, tmp_path / "a.pt")
    torch.save({"netG": {"0.weight": torch.zeros(8, 5)}, "extra": evil}, tmp_path / "b.pth")
    torch.save(evil, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for name in ("d.pt", "e.ckpt", "f.safetensors", "g.onnx", "h.pt2", "i.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(evil))
    for path in sorted(tmp_path.iterdir()):
        if path.suffix != ".py":
            refused("pickle|damaged|no ONNX|no torch.export", f"{code}:make", path)
            refused("pickle|damaged|no ONNX|no torch.export|holds weights, not a model", path)
    assert not ran.exists()


def test_a_whole_pickled_module_is_refused_with_how_to_save_instead(code: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "a.pt")
    how = r"names Python objects \(torch\.nn.*Linear\).*torch\.save\(model\.state_dict\(\), file\)"
    refused(how, f"{code}:make", tmp_path / "a.pt")
    refused(how, tmp_path / "a.pt")


def test_a_truncated_file_and_weights_in_place_of_a_model_are_one_line(code: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(300, 20).state_dict(), tmp_path / "a.pt")
    refused("holds weights, not a model; name the code that builds it", tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:5000])
    refused("cut short: its archive has no end", f"{code}:make", tmp_path / "a.pt")
    refused("can't be read: No such file", f"{code}:make", tmp_path / "nowhere.pt")


def scripted(path: Path, net: nn.Module) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(net).save(str(path))
    return path


def test_a_torchscript_program_is_drawn_from(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    made = load_generator(scripted(tmp_path / "a.pt", net))
    assert made.latent_shape == (6,)
    assert torch.allclose(made.draw(7, 1), net(made.latents(7, 1)).detach(), atol=1e-6)
    assert "TorchScript" in said(made)
    refused("a TorchScript program with its weights; name it in place", net, tmp_path / "a.pt")


class Writes(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        torch.save(z, "ran")
        return z


def test_a_torchscript_program_that_writes_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("calls save, on files", scripted(tmp_path / "a.pt", Writes()), latent=2)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "a.pt2"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), path)
    torch.save(net, path.with_name("net.pt"))
    return path


def test_a_torch_export_program_is_drawn_from_though_its_batch_is_fixed(exported: Path) -> None:
    net = torch.load(exported.with_name("net.pt"), weights_only=False)
    made = load_generator(exported)
    assert made.latent_shape == (4,)
    assert torch.allclose(made.draw(7, 1), net(made.latents(7, 1)).detach(), atol=1e-6)


def changed(path: Path, out: Path, change: Any) -> Path:
    """The archive with each file's bytes passed through `change(name, bytes)`."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return out


def test_what_torch_export_would_unpickle_or_evaluate_is_refused(exported: Path, tmp_path: Path) -> None:
    evil = Payload(tmp_path / "ran")
    torch.save(evil, tmp_path / "evil.pt")
    inner = (tmp_path / "evil.pt").read_bytes()

    def pickled(name: str, data: bytes) -> bytes:
        return inner if name.endswith(".pt") else data

    refused("is a pickle that names Python objects", changed(exported, tmp_path / "b.pt2", pickled))

    def texts(edit: Any) -> Any:
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith("model.json"):
                return data
            graph = json.loads(data)
            edit(graph["graph_module"]["graph"])
            return json.dumps(graph).encode()

        return change

    code = f"__import__('os').mkdir({os.fspath(tmp_path / 'ran')!r})"

    def size(graph: Any) -> None:
        next(iter(graph["tensor_values"].values()))["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}

    def argument(graph: Any) -> None:
        graph["inputs"][-1]["as_tensor"]["name"] = f"z={code}"

    def operator(graph: Any) -> None:
        graph["nodes"][0]["target"] = "torch.hub.load"

    for i, (edit, match) in enumerate([(size, "expr_str"), (argument, "name"), (operator, "target")]):
        refused(f"has {match} .*which no plain network needs", changed(exported, tmp_path / f"c{i}.pt2", texts(edit)))
    assert not (tmp_path / "ran").exists()


def graph_of(path: Path, batch: int | str) -> Path:
    weight = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["z", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("batch", ["n", 4])
def test_an_onnx_program_is_drawn_from_whatever_its_batch(tmp_path: Path, batch: int | str) -> None:
    made = load_generator(graph_of(tmp_path / "a.onnx", batch))
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))
    assert made.latent_shape == (6,)
    assert torch.allclose(made.draw(7, 1), made.latents(7, 1) @ weight, atol=1e-5)
    refused("can't be called with a latent of shape", tmp_path / "a.onnx", latent=5)


def test_what_is_no_onnx_file_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("<html>")
    refused("no ONNX file that can be run: it is an HTML page", tmp_path / "a.onnx")
    refused("can't be read", tmp_path / "b.onnx")


def test_a_discriminator_scores_images_or_rows_and_patches_are_averaged() -> None:
    x = tensor(7, 1, 8, 8)
    flat = load_discriminator(nn.Sequential(nn.Linear(64, 1), nn.Sigmoid()))
    assert flat.score(x).shape == (7,)
    assert flat.probabilities is True
    patches = nn.Conv2d(1, 1, 4, stride=4)
    convolutional = load_discriminator(patches)
    assert torch.allclose(convolutional.score(x, batch=3), patches(x).flatten(1).mean(1).detach(), atol=1e-6)
    assert convolutional.probabilities is False
    wrong = load_discriminator(nn.Linear(63, 1))
    refused("the discriminator raised RuntimeError for samples of shape", x, call=wrong.score)


def test_gradients_reach_the_samples_through_the_discriminator() -> None:
    x = tensor(4, 3).requires_grad_()
    load_discriminator(nn.Linear(3, 1)).judge(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_progress_counts_what_is_drawn() -> None:
    heard: list[tuple[str, int, int]] = []
    load_generator(nn.Linear(3, 2)).draw(10, batch=4, progress=lambda *now: heard.append(now))
    assert heard == [("samples", 4, 10), ("samples", 8, 10), ("samples", 10, 10)]
