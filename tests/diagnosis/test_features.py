"""Features: each extractor against something not written here, the cache and its forgeries, and files of features."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from input_files import Payload, tensor
from torch import nn
from torch.nn import functional as F

from stabilgan.diagnosis import InputError
from stabilgan.diagnosis.features import cache, dinov2, embed, inception, network, save
from stabilgan.diagnosis.features.content import content_hash
from stabilgan.diagnosis.features.edges import Edges
from stabilgan.diagnosis.features.known import known
from stabilgan.diagnosis.inputs import Samples, load
from stabilgan.workloads import digits


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STABILGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bars(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one upright (0) or level (1) bar in noise, at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 * torch.rand(n, 1, 12, 12, generator=generator)
    labels, at = torch.arange(n) % 2, torch.randint(2, 10, (n,), generator=generator)
    for image, label, place in zip(x, labels, at, strict=True):
        if label == 0:
            image[0, :, place] = 1
        else:
            image[0, place, :] = 1
    return x, labels


def test_pixels_and_features_are_as_they_are() -> None:
    images, rows = load(tensor(12, 3, 4, 4)), load(tensor(12, 7))
    assert torch.equal(embed(images, images, "pixels").real, images.x.flatten(1))
    made = embed(rows, rows)
    assert (made.name, torch.equal(made.fake, rows.x)) == ("identity", True)
    with pytest.raises(InputError, match="features 'edges' are of images; the tensor holds features"):
        embed(rows, rows, "edges")
    with pytest.raises(InputError, match="expected samples of one shape"):
        embed(images, rows)


def test_tables_are_standardised_by_the_reals(tmp_path: Path) -> None:
    rows = [f"{i},5,{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "a.csv").write_text("x,same,kind\n" + "\n".join(rows))
    real = load(tmp_path / "a.csv")
    made = embed(real, replace(real, x=real.x + 1))
    x = np.arange(20.0)
    assert np.allclose(made.real[:, 0], (x - x.mean()) / x.std(), atol=1e-6)
    assert np.allclose(made.fake[:, 0], (x + 1 - x.mean()) / x.std(), atol=1e-6)
    assert made.real[:, 1].unique().tolist() == [0]
    assert torch.equal(made.real[:, 2:], real.x[:, 2:])
    assert any("all reals are alike, only centred: same" in note for note in made.notes)


def nearest(x: torch.Tensor, y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels[torch.cdist(y, x).argmin(1)]


def test_edges_know_what_pixels_do_not() -> None:
    x, labels = bars(240)
    y, wanted = bars(100, seed=1)
    real, fake = load(x), load(y)
    made = embed(real, fake)
    assert made.name == "edges"
    assert "the reals have no labels" in made.notes[0]
    assert made.real.shape == (240, 64)
    assert (nearest(made.real, made.fake, labels) == wanted).float().mean() == 1
    moved = y.roll(1, 2).roll(1, 3)
    near = (embed(real, load(moved), "edges").fake - made.fake).norm(dim=1)
    assert near.median() < 0.7 * torch.cdist(made.fake, made.fake).median()


def test_an_edge_answers_in_its_own_direction() -> None:
    upright = torch.zeros(1, 1, 16, 16)
    upright[..., 8:] = 1
    net = Edges(1)
    strengths = net.raw(torch.cat([upright, upright.transpose(2, 3)]))[:, : 6 * 16].view(2, 6, 16).sum(2)
    assert strengths[0].argmax() == 0  # varies along x: angle 0
    assert strengths[1].argmax() == 3  # varies along y: angle 90 degrees
    assert net.raw(torch.full((1, 1, 16, 16), 0.3))[:, : 3 * 6 * 16].abs().max() < 1e-5


def test_axes_are_the_principal_ones_of_the_reals() -> None:
    net = Edges(1).fit(bars(100)[0], device=torch.device("cpu"))
    out = net(bars(100)[0])
    assert out.mean(0).abs().max() < 1e-4
    covariance = out.T @ out / len(out)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3 * covariance.max()
    assert (covariance.diag().diff() <= 1e-6).all()


def test_reals_that_are_all_alike_have_features_too() -> None:
    same = load(torch.full((20, 3, 8, 8), 0.5))
    made = embed(same, load(tensor(20, 3, 8, 8)), "edges")
    assert made.real.isfinite().all()
    assert made.real.std(0).max() < 1e-5


def test_a_classifier_learns_the_labels_of_the_reals_and_is_kept() -> None:
    x, labels = bars(240)
    y, wanted = bars(60, seed=1)
    real = load(x, labels=labels)
    made = embed(real, load(y))
    assert made.name == "classifier"
    assert made.classes == 2
    assert made.accuracy == 1
    assert made.labels_fake is not None
    assert torch.equal(made.labels_fake, wanted)
    assert "the reals are labelled (2 classes)" in made.notes[0]
    heard: list[str] = []
    again = embed(real, load(y), progress=lambda what, done, total: heard.append(what))
    assert heard == []
    assert torch.equal(again.fake, made.fake)


def test_a_classifier_that_learned_nothing_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = bars(240)
    monkeypatch.setattr(network, "trained", lambda *_, **__: network.SmallNetwork((1, 12, 12), 4).requires_grad_(False))
    real = load(x, labels=(labels * 2 + torch.arange(240) // 2 % 2))
    made = embed(real, load(x))
    assert made.name == "edges"
    assert "held-out ones alone" in made.notes[0]
    assert embed(real, load(x), "classifier").labels_real is None


def test_a_classifier_needs_labels_and_images_of_each() -> None:
    x, labels = bars(15)
    with pytest.raises(InputError, match="has none; put images into a sub-folder for each class"):
        embed(load(x), load(x), "classifier")
    with pytest.raises(InputError, match="two classes at least and ten images of each"):
        embed(load(x, labels=labels), load(x), "classifier")


def test_images_of_any_size_go_through_the_small_network() -> None:
    for shape in ((1, 5, 9), (3, 100, 70), (3, 64, 64)):
        assert network.SmallNetwork(shape, 3)(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.data
def test_mnist_by_name_has_the_workloads_own_classifier(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = digits.Classifier().eval().requires_grad_(False)
    monkeypatch.setattr(digits, "judge_of", lambda *_: (net, 0.99))
    real = load("mnist:test", data_dir=data_dir, limit=200)
    made = embed(real, load(real.x[:20]))
    assert made.classes == 10
    raw = (real.x.flatten(1) * 255).round().to(torch.uint8)
    assert torch.allclose(made.real, net.features(digits.scaled(raw)), atol=1e-5)


@pytest.mark.data
def test_mnist_without_its_name_is_known_to_the_last_pixel(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = load("mnist:test", data_dir=data_dir, limit=200)
    real = load((named.x * 255).round().to(torch.uint8))
    assert real.labels is None
    assert known(real, data_dir) == "mnist"
    assert known(load(((named.x * 255).round() - 1).clamp(0).to(torch.uint8)), data_dir) is None
    net = digits.Classifier().eval().requires_grad_(False)
    monkeypatch.setattr(digits, "judge_of", lambda *_: (net, 0.99))
    made = embed(real, load(real.x[:20]), data_dir=data_dir)
    assert made.name == "classifier"
    assert "images of mnist, to the last pixel" in made.notes[0]


def test_where_the_data_set_does_not_lie_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABILGAN_DATA", str(tmp_path))
    assert known(load(torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8)), tmp_path) is None


def test_a_forged_classifier_of_a_workload_is_made_anew_and_runs_nothing(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.zeros(20, 28, 28, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)
    monkeypatch.setattr(digits, "load", lambda *_, **__: (images, labels))
    monkeypatch.setattr(digits, "train_classifier", lambda *_: digits.Classifier())
    digits.judge_of("MNIST", None)
    (path,) = (own_cache / "classifiers").iterdir()
    for forged in (lambda: torch.save(Payload(tmp_path / "ran"), path), lambda: path.write_bytes(b"PK\3\4cut")):
        forged()
        digits.judge_of("MNIST", None)
        assert set(torch.load(path, weights_only=True)) == {"net", "accuracy"}
    assert not (tmp_path / "ran").exists()


def test_rows_that_are_not_finite_are_nan_in_the_features() -> None:
    x = bars(40)[0]
    y = x.clone()
    y[3] = torch.nan
    made = embed(load(x), load(y, allow_nonfinite=True), "edges")
    assert (~made.fake.isfinite().all(1)).nonzero().flatten().tolist() == [3]
    assert torch.allclose(made.fake[4], made.real[4])


def test_the_content_hash_sees_every_value_shape_and_dtype() -> None:
    x = tensor(5, 4)
    changed = x.clone()
    changed[4, 3] += 1e-7
    seen = {content_hash(t) for t in (x, changed, x.view(4, 5), x.double(), None)} | {content_hash(x, of="other")}
    assert len(seen) == 6
    assert content_hash(x) == content_hash(x.clone())


def kept_files(own_cache: Path) -> list[Path]:
    return sorted((own_cache / "features").iterdir())


def test_features_are_kept_by_content_and_forged_ones_are_refused(own_cache: Path, tmp_path: Path) -> None:
    real, fake = load(bars(40)[0]), load(bars(30, seed=1)[0])
    first = embed(real, fake, "edges")
    files = kept_files(own_cache)
    assert len(files) == 2
    ran = tmp_path / "ran"
    objects = np.empty(40, dtype=object)
    objects[:] = [Payload(ran)] * 40
    good = dict(np.load(files[0]))
    bad_rows, bad_shape = good | {"features": good["features"] * np.nan}, good | {"features": good["features"][:5]}
    forgeries = [
        lambda path: path.write_bytes(pickle.dumps(Payload(ran))),
        lambda path: np.savez(path, features=objects, key=good["key"]),
        lambda path: np.savez(path, **bad_rows),
        lambda path: np.savez(path, **bad_shape),
        lambda path: np.savez(path, **(good | {"key": good["key"][::-1]})),
        lambda path: np.savez(path, **(good | {"more": good["key"]})),
        lambda path: np.savez(path, features=good["features"]),
        lambda path: path.write_bytes(path.read_bytes()[:99]),
    ]
    for forge in forgeries:
        forge(files[0])
        made = embed(real, fake, "edges")
        assert any("in the cache is not what it should be: nothing in it was used" in note for note in made.notes)
        assert torch.equal(made.real, first.real)
        assert torch.equal(made.fake, first.fake)
        assert not any("in the cache" in note for note in embed(real, fake, "edges").notes)
    assert not ran.exists()


def test_weights_in_the_cache_are_checked_before_they_are_used(own_cache: Path, tmp_path: Path) -> None:
    net = network.SmallNetwork((1, 12, 12), 2)
    cache.keep_weights("classifier", "a" * 32, net, 0.75)
    (path,) = kept_files(own_cache)
    assert cache.kept_weights("classifier", "a" * 32, network.SmallNetwork((1, 12, 12), 2)) == (0.75, "")
    assert cache.kept_weights("classifier", "a" * 32, network.SmallNetwork((1, 12, 12), 3))[0] is None
    path.rename(path.with_name(f"classifier-{'b' * 32}.safetensors"))
    assert "not what it should be" in cache.kept_weights("classifier", "b" * 32, net)[1]
    path.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert "not what it should be" in cache.kept_weights("classifier", "a" * 32, net)[1]
    assert not (tmp_path / "ran").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STABILGAN_CACHE", str(tmp_path / "file"))
    assert embed(load(bars(20)[0]), load(bars(20)[0]), "edges").real.isfinite().all()


def test_ones_own_extractor_is_run_as_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def halves(x): return x.flatten(1)[:, :2] / 2\n"
        "def make(width: int = 3): return nn.Sequential(nn.Flatten(), nn.Linear(144, width))\n"
        "def flat(x): return x.mean()\n"
        "def bad(x): return x.flatten(1) / 0\n"
        "def fails(x): raise OSError('no')\n"
    )
    real = load(bars(20)[0])
    path = tmp_path / "mine.py"
    assert torch.equal(embed(real, real, f"{path}:halves").real, real.x.flatten(1)[:, :2] / 2)
    assert embed(real, real, f"{path}:make:width=5").real.shape == (20, 5)
    for name, match in (("flat", "expected .N, d."), ("bad", "gave nan or infinity"), ("fails", "raised OSError: no")):
        with pytest.raises(InputError, match=match):
            embed(real, real, f"{path}:{name}")
    with pytest.raises(InputError, match="no features named 'incepton'; did you mean 'inception'"):
        embed(real, real, "incepton")


def test_saved_features_are_read_again_for_the_same_samples_alone(tmp_path: Path) -> None:
    real, fake = load(bars(40)[0]), load(bars(30, seed=1)[0])
    made = embed(real, fake, "edges", save=tmp_path / "a.npz")
    again = embed(real, fake, f"file:{tmp_path / 'a.npz'}")
    assert torch.equal(again.real, made.real)
    assert torch.equal(again.fake, made.fake)
    assert again.labels_fake is None
    save(tmp_path / "b.npz", replace(made, labels_real=bars(40)[1], labels_fake=bars(30)[1]), real, fake)
    labelled = embed(real, fake, f"file:{tmp_path / 'b.npz'}")
    assert labelled.labels_fake is not None
    assert torch.equal(labelled.labels_fake, bars(30)[1])
    with pytest.raises(InputError, match="features of other samples than the tensor"):
        embed(real, load(bars(30, seed=2)[0]), f"file:{tmp_path / 'a.npz'}")
    with pytest.raises(InputError, match=r"saved as \.npz"):
        embed(real, fake, "pixels", save=tmp_path / "a.pt")


def test_files_of_features_are_checked_when_they_are_loaded(tmp_path: Path) -> None:
    real, fake = load(bars(20)[0]), load(bars(15)[0])
    np.save(tmp_path / "r.npy", tensor(20, 4).numpy())
    np.save(tmp_path / "f.npy", tensor(15, 4).numpy())
    assert embed(real, fake, f"file:{tmp_path / 'r.npy'},{tmp_path / 'f.npy'}").fake.shape == (15, 4)
    broken = tensor(15, 4)
    broken[2] = torch.nan
    cases = {
        r"shape \(20, 4\) for the 15 samples": tensor(20, 4).numpy(),
        "4 columns for the reals and 5 for the fakes": tensor(15, 5).numpy(),
        r"nan or infinity in 1 rows, the first at \[2\]": broken.numpy(),
    }
    for match, array in cases.items():
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(InputError, match=match):
            embed(real, fake, f"file:{tmp_path / 'r.npy'},{tmp_path / 'x.npy'}")
    np.savez(tmp_path / "s.npz", mu=tensor(4).numpy())
    with pytest.raises(InputError, match="has mu; expected 'real' and 'fake'"):
        embed(real, fake, f"file:{tmp_path / 's.npz'}")
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError, match="pickle"):
        embed(real, fake, f"file:{tmp_path / 'p.npz'}")
    assert not (tmp_path / "ran").exists()


# networks whose weights are files of their authors'


def fitted(samples: int, side: int) -> Samples:
    return load(tensor(samples, 3, side, side), least=1)


def random_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """Weights under which a signal reaches the end: spread as He et al. have it, statistics near 0 and 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, v: torch.Tensor) -> torch.Tensor:
        if v.ndim > 1:
            return torch.randn(v.shape, generator=generator) * (2 / v[0].numel()) ** 0.5
        if name.endswith(("running_var", "bn.weight")):
            return torch.rand(v.shape, generator=generator) + 0.5
        return torch.randn(v.shape, generator=generator) / 10 if v.ndim else v

    return {k: draw(k, v) for k, v in net.state_dict().items()}


def test_inception_agrees_with_pytorch_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_fid import inception as theirs
    from torchvision.models.inception import Inception3

    state = random_state(Inception3(num_classes=1008, aux_logits=False, init_weights=False))
    torch.save(state, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: state)
    samples = fitted(2, 32)
    made = embed(samples, samples, "inception", weights_dir=tmp_path)
    with torch.no_grad():
        expected = theirs.InceptionV3().eval()(samples.x)[0].flatten(1)
    assert made.real.shape == (2, 2048)
    assert expected.std() > 0.1
    assert torch.allclose(made.real, expected, rtol=1e-3, atol=1e-4 * expected.std().item())
    assert "FID's own network" in made.notes[0]


def test_another_network_under_inceptions_name_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(10)}, tmp_path / inception.FILES[0])
    with pytest.raises(InputError, match=r"is not Inception v3: fc\.bias has 10 values"):
        embed(fitted(2, 8), fitted(2, 8), "inception", weights_dir=tmp_path)
    torch.save(Payload(tmp_path / "ran"), tmp_path / inception.FILES[0])
    with pytest.raises(InputError, match="names Python objects"):
        embed(fitted(2, 8), fitted(2, 8), "inception", weights_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def dino_state(
    width: int = 64, depth: int = 2, side: int = 16, registers: int = 0, gated: bool = False
) -> dict[str, torch.Tensor]:
    """Weights in the layout of DINOv2's files, in small."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    state = {
        "cls_token": draw(1, 1, width),
        "mask_token": draw(1, width),
        "pos_embed": draw(1, 1 + side**2, width),
        "patch_embed.proj.weight": draw(width, 3, 14, 14) / 14,
        "patch_embed.proj.bias": draw(width),
        "norm.weight": 1 + draw(width),
        "norm.bias": draw(width),
    }
    if registers:
        state["register_tokens"] = draw(1, registers, width)
    for i in range(depth):
        block = {
            "attn.qkv.weight": draw(3 * width, width),
            "attn.qkv.bias": draw(3 * width),
            "attn.proj.weight": draw(width, width),
            "attn.proj.bias": draw(width),
            "ls1.gamma": draw(width),
            "ls2.gamma": draw(width),
        }
        for name in ("norm1", "norm2"):
            block |= {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}
        first, last = ("w12", "w3") if gated else ("fc1", "fc2")
        block |= {f"mlp.{first}.weight": draw(8 * width if gated else 4 * width, width)}
        block |= {f"mlp.{first}.bias": draw(8 * width if gated else 4 * width)}
        block |= {f"mlp.{last}.weight": draw(width, 4 * width), f"mlp.{last}.bias": draw(width)}
        state |= {f"blocks.{i}.{k}": v for k, v in block.items()}
    return state


def test_dinov2_agrees_with_torchs_own_transformer_layers(tmp_path: Path) -> None:
    state = dino_state()
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    samples = fitted(3, 224)
    made = embed(samples, samples, "dinov2", weights_dir=tmp_path)

    mean, std = torch.tensor(dinov2.MEAN)[:, None, None], torch.tensor(dinov2.STD)[:, None, None]
    x = F.conv2d((samples.x - mean) / std, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    tokens = torch.cat([state["cls_token"].expand(3, -1, -1), x.flatten(2).transpose(1, 2)], 1) + state["pos_embed"]
    for i in range(2):
        layer = nn.TransformerEncoderLayer(64, 1, 256, 0, "gelu", 1e-6, batch_first=True, norm_first=True)
        own = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if k.startswith(f"blocks.{i}.")}
        g1, g2 = own["ls1.gamma"][:, None], own["ls2.gamma"][:, None]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": own["attn.qkv.weight"],
                "self_attn.in_proj_bias": own["attn.qkv.bias"],
                "self_attn.out_proj.weight": own["attn.proj.weight"] * g1,
                "self_attn.out_proj.bias": own["attn.proj.bias"] * g1[:, 0],
                "linear1.weight": own["mlp.fc1.weight"],
                "linear1.bias": own["mlp.fc1.bias"],
                "linear2.weight": own["mlp.fc2.weight"] * g2,
                "linear2.bias": own["mlp.fc2.bias"] * g2[:, 0],
                **{k: own[k] for k in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")},
            }
        )
        tokens = layer.eval()(tokens)
    expected = F.layer_norm(tokens[:, 0], (64,), state["norm.weight"], state["norm.bias"], 1e-6)
    assert torch.allclose(made.real, expected.detach(), atol=1e-4)


@pytest.mark.parametrize("options", [{"side": 37}, {"side": 37, "registers": 4}, {"gated": True, "width": 128}])
def test_every_layout_of_dinov2_is_built_from_its_shapes(tmp_path: Path, options: dict[str, Any]) -> None:
    state = dino_state(**options)
    torch.save(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    samples = fitted(2, 32)
    made = embed(samples, samples, "dinov2", weights_dir=tmp_path)
    assert made.real.shape == (2, options.get("width", 64))
    assert made.real.isfinite().all()


def test_dinov2_weights_that_are_missing_or_do_not_fit_are_one_line(tmp_path: Path) -> None:
    samples = fitted(2, 32)
    with pytest.raises(InputError, match=r"need a file of weights, dinov2_vits14_pretrain\.pth.*--weights-dir"):
        embed(samples, samples, "dinov2", weights_dir=tmp_path)
    state = dino_state()
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save({k: v for k, v in state.items() if k != "blocks.1.ls1.gamma"}, path)
    with pytest.raises(InputError, match=r"doesn't fit: .*blocks\.1\.ls1\.gamma"):
        embed(samples, samples, "dinov2", weights_dir=tmp_path)
    torch.save(state | {"norm.bias": state["norm.bias"] * torch.nan}, path)
    with pytest.raises(InputError, match=r"nan or infinity in norm\.bias"):
        embed(samples, samples, "dinov2", weights_dir=tmp_path)
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="is not DINOv2"):
        embed(samples, samples, "dinov2", weights_dir=tmp_path)
