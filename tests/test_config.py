import shlex
import shutil

import pytest
import yaml

from open_miipher import config
from open_miipher.base.errors import UserError
from open_miipher.base.plain import leaves
from open_miipher.checkpoint import Content, write_checkpoint
from open_miipher.config import (
    CONFIG_DIR,
    compose_plain,
    compose_preprocessing,
    compose_run,
    merge_overrides,
)
from open_miipher.recipes import RECIPES

MODELS = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml"))


def save(tmp_path, overrides, **changes):
    """Leave a checkpoint of a run composed with these overrides."""
    run = compose_run(overrides)
    plain = yaml.safe_load(yaml.safe_dump(run.plain))
    for key, value in changes.items():
        node = plain
        *parents, last = key.split("__")
        for name in parents:
            node = node[name]
        node[last] = value
    state = {"step": 1, "overrides": run.overrides}
    return write_checkpoint(tmp_path / "ckpt", Content(plain, state, {}))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes_and_checks(model):
    run = compose_run([f"model={model}"])
    assert run.name == model
    assert run.plain["model"]["recipe"] in RECIPES
    assert all(0 < o.lr < 1 for o in run.optimizers.values())


def test_groups_inside_a_model_can_be_chosen():
    run = compose_run(["model=miipher2_feature_cleaner", "encoder@model.encoder=wavlm_large"])
    assert "wavlm" in run.model["encoder"]["source"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=nothing", "Could not find 'model/nothing'"),
        ("trainer.max_step=3", "trainer.max_step"),
        ("trainer.max_steps=many", r"trainer\.max_steps='many'.*whole number"),
        ("trainer.amp=bf8", r"trainer\.amp='bf8'.*bf16, fp16, no"),
        ("data.crop=3", "data.crop"),
        ("optimizer.cleaner.lr=fast", r"optimizer\.cleaner\.lr='fast'"),
        ("trainer.seed", r"no value; write trainer\.seed=VALUE, without blanks"),
        ("data.train.dir_list=[/a,", r"list has no end.* quotes: 'data\.train\.dir_list=\[A, B\]'"),
        ('data.train.dir_list=["/a"', "list has no end"),
        ("data.train.dir_list=[/a,]", r"write 'data\.train\.dir_list=\[\"/a\"\]'"),
        ("trainer.max_steps=1e6", r"trainer\.max_steps=1000000\.0 .*: write 1000000"),
        ("trainer.max_grad_norm=nan", r"trainer\.max_grad_norm=nan must be a finite number"),
        ("trainer.lr_factor=inf", r"trainer\.lr_factor=inf must be a finite number"),
        ("trainer.lr_factor=0", r"trainer\.lr_factor=0\.0 must be above 0"),
        ("trainer.timeout_minutes=-1", r"trainer\.timeout_minutes=-1\.0 must lie within"),
        ("trainer.timeout_minutes=1e300", r"trainer\.timeout_minutes=1e\+300 must lie within"),
        ("model=null", "cannot be composed"),
    ],
)
def test_a_wrong_override_is_named(override, words):
    base = [] if override.startswith("model=") else ["model=demo_feature_cleaner"]
    with pytest.raises(UserError, match=words):
        compose_run([*base, override])


NAMES = ["日本", "Müller", "a=b", "c[1]", "d#e", "f~g", "h(i)", 'q"r', "it's", "a & b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["trainer.output_dir={}", "data.train.dir_list=[{},/plain]"])
def test_a_path_that_needs_quotes_is_shown_with_them(name, key):
    path = f"/data/{name}"
    model = "model=demo_feature_cleaner"
    try:
        plain = compose_plain([model, key.format(path)])
    except UserError as error:
        words = shlex.split(str(error).partition("quotes: write ")[2])
        plain = compose_plain([model, *words])
    wanted = path if "trainer" in key else [path, "/plain"]
    found = (plain["trainer"]["output_dir"], plain["data"]["train"]["dir_list"])
    assert wanted in found


def test_a_home_directory_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    with pytest.raises(UserError, match=r"write 'trainer\.ckpt_dir=\"/home/anna/run\"'"):
        compose_run(["trainer.ckpt_dir=~/run"])


def test_a_name_that_is_cut_at_its_comma_is_told(tmp_path):
    (tmp_path / "j,k").mkdir()
    with pytest.raises(
        UserError, match=rf"""write 'data\.train\.dir_list=\["{tmp_path}/j,k","x"\]'"""
    ):
        compose_run(["model=demo_feature_cleaner", f"data.train.dir_list=[{tmp_path}/j,k,x]"])
    with pytest.raises(UserError, match="is cut at a comma"):
        compose_preprocessing([f"data.train.urls=[{tmp_path}/j,k]"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.batchsize=3", r"no key trainer\.batchsize; did you mean trainer\.batch_size\?"),
        ("+trainer.batchsize=3", r"unknown key trainer\.batchsize.*did you mean batch_size\?"),
        ("trianer.seed=1", r"did you mean trainer\.seed\?"),
        ("trainer.lr=1", r"did you mean optimizer\.cleaner\.lr\?"),
        ("+dta.x=1", r"no section dta; did you mean data\?"),
        ("encoder@model.encoder=logmel", r"did you mean log_mel\?"),
        ("data.train.dirs_audio=[x]", r"here it is data\.train\.dir_list"),
        ("+batch_size=3", r"here it is trainer\.batch_size"),
        (
            "data.degradation.fast_codecs=true",
            r"fast_codecs=true is gone, MP3 and Opus are always coded fast: leave it out",
        ),
        (
            "+data.degradation.fast_codecs=false",
            r"fast_codecs=false is gone, MP3 and Opus are always coded fast: leave it out",
        ),
        ("model=feature_cleaner/google-usm", "here it is model=miipher2_feature_cleaner"),
    ],
)
def test_what_was_meant_is_said(override, words):
    """Hydra's advice was a `+`, after which the key was refused."""
    base = [] if override.startswith("model=") else ["model=demo_feature_cleaner"]
    with pytest.raises(UserError, match=words) as caught:
        compose_run([*base, override])
    assert "use +" not in str(caught.value)


def test_old_names_are_not_names_here():
    known = {}
    for model in MODELS:
        known |= leaves(compose_plain([f"model={model}"]))
    old_names = yaml.safe_load((CONFIG_DIR / "old_names.yaml").read_text())
    assert not {*old_names} & {*known}
    new = [text.partition(" (")[0] for text in old_names.values() if not text.startswith("nothing")]
    assert [n for n in new if "=" not in n and "*" not in n and n not in known] == [
        "data.degradation.stages"
    ]


def test_a_key_that_is_new_does_not_stop_a_run_of_an_earlier_version(tmp_path):
    folder = save(tmp_path, ["model=demo_feature_cleaner"])
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    del plain["data"]["max_broken_samples"]
    state = {"step": 1, "overrides": ["model=demo_feature_cleaner"]}
    folder = write_checkpoint(tmp_path / "old", Content(plain, state, {}))
    assert compose_run([f"trainer.ckpt_dir={folder}"]).data.config.max_broken_samples == 0.01


def test_a_key_that_is_gone_does_not_stop_a_run_of_an_earlier_version(tmp_path):
    folder = save(tmp_path, ["model=demo_feature_cleaner"])
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    plain["data"]["degradation"]["fast_codecs"] = True
    overrides = ["model=demo_feature_cleaner", "data.degradation.fast_codecs=true"]
    state = {"step": 1, "overrides": overrides}
    folder = write_checkpoint(tmp_path / "old", Content(plain, state, {}))
    run = compose_run([f"trainer.ckpt_dir={folder}", "trainer.seed=3"])
    assert run.overrides == ["model=demo_feature_cleaner", "trainer.seed=3"]
    assert "fast_codecs" not in run.plain["data"]["degradation"]


def test_no_model_lists_the_models():
    with pytest.raises(UserError, match="demo_feature_cleaner"):
        compose_run([])


def test_amp_no_is_text():
    assert compose_run(["model=demo_feature_cleaner", "trainer.amp=no"]).trainer.amp == "no"


def test_new_overrides_replace_saved_ones():
    saved = ["model=a", "+x.y=1", "trainer.seed=1", "encoder@model.encoder=b"]
    new = ["trainer.seed=2", "encoder@model.encoder=c"]
    assert merge_overrides(saved, new) == ["model=a", "+x.y=1", *new]


def test_resume_composes_saved_and_new(tmp_path):
    folder = save(
        tmp_path,
        ["model=demo_feature_cleaner", "trainer.seed=5", "trainer.init_from=elsewhere"],
        trainer__output_dir="where/it/was",
    )
    run = compose_run([f"trainer.ckpt_dir={folder}", "optimizer.cleaner.lr=0.5"])
    assert run.trainer.seed == 5
    assert run.optimizers["cleaner"].lr == 0.5
    assert run.trainer.output_dir == "where/it/was"
    assert run.trainer.init_from == "elsewhere"  # where it came from; not read again
    assert run.resumed.path == folder.resolve()
    assert run.overrides == [
        "model=demo_feature_cleaner", "trainer.seed=5", "trainer.init_from=elsewhere",
        "optimizer.cleaner.lr=0.5",
    ]  # fmt: skip


def test_resume_with_a_group_override(tmp_path):
    """One public code replaced the model by a string here."""
    folder = save(tmp_path, ["model=demo_feature_cleaner"])
    new = [f"trainer.ckpt_dir={folder}", "optimizer@optimizer.cleaner=adamw", "data=default"]
    run = compose_run(new)
    assert isinstance(run.model["encoder"], dict)
    assert run.model["recipe"] == "feature_cleaner"


def test_parts_filled_at_the_start_stay_filled(tmp_path):
    folder = save(
        tmp_path,
        ["model=demo_wavefit_finetune", "model.cleaner_ckpt_dir=gone"],
        model__encoder={"name": "log_mel"},
    )
    run = compose_run([f"trainer.ckpt_dir={folder}"])
    assert run.model["encoder"] == {"name": "log_mel"}


def test_single_keys_of_an_open_part_win_on_resume(tmp_path):
    vocoder = {"name": "wavefit", "num_iterations": 2}
    folder = save(tmp_path, ["model=demo_wavefit_finetune"], model__vocoder=vocoder)
    key = "+model.vocoder.gradient_checkpointing=true"
    run = compose_run([f"trainer.ckpt_dir={folder}", key])
    assert run.model["vocoder"] == {**vocoder, "gradient_checkpointing": True}


def test_earlier_stages_cannot_be_changed_on_resume(tmp_path):
    folder = save(tmp_path, ["model=demo_wavefit_finetune", "model.cleaner_ckpt_dir=gone"])
    with pytest.raises(UserError, match=r"model\.cleaner_ckpt_dir cannot be changed on resume"):
        compose_run([f"trainer.ckpt_dir={folder}", "model.cleaner_ckpt_dir=other"])


@pytest.mark.parametrize("key", ["trainer.init_from", "model.vocoder_ckpt_dir"])
def test_the_command_that_started_a_run_goes_on_with_it(tmp_path, key):
    """`auto`: fresh where there is nothing, then the newest complete checkpoint."""
    same = ["model=demo_wavefit_finetune", f"trainer.output_dir={tmp_path}", f"{key}=elsewhere"]
    command = [*same, "trainer.ckpt_dir=auto"]
    assert compose_run(command).resumed is None
    first = save(tmp_path, command)
    assert compose_run(command).resumed.path == first.resolve()
    (tmp_path / "ckpt" / "step-00000009").mkdir()  # newer, and not complete
    again = compose_run(command)
    assert again.resumed.path == first.resolve()
    assert again.overrides == same
    assert again.trainer.ckpt_dir == "auto"
    with pytest.raises(UserError, match=rf"{key} cannot be changed on resume"):
        compose_run([*command, f"{key}=another"])


def test_a_run_goes_on_by_itself_after_it_was_resumed_by_hand(tmp_path):
    start = ["model=demo_feature_cleaner", "trainer.init_from=elsewhere"]
    save(tmp_path, [*start, f"trainer.output_dir={tmp_path}"])
    by_hand = compose_run([f"trainer.ckpt_dir={tmp_path}"])
    write_checkpoint(
        tmp_path / "ckpt", Content(by_hand.plain, {"step": 2, "overrides": by_hand.overrides}, {})
    )
    command = [*start, f"trainer.output_dir={tmp_path}", "trainer.ckpt_dir=auto"]
    assert compose_run(command).resumed.state["step"] == 2


def test_auto_needs_an_output_directory():
    with pytest.raises(UserError, match=r"auto resumes.*; set trainer\.output_dir"):
        compose_run(["model=demo_feature_cleaner", "trainer.ckpt_dir=auto"])


@pytest.mark.parametrize("model", MODELS)
def test_fine_tuning_lowers_the_rates_of_every_model(model):
    plain = compose_run([f"model={model}"])
    run = compose_run([f"model={model}", "experiment=finetune", "trainer.init_from=output/old"])
    assert run.trainer.max_steps == 5000
    for network, optimizer in run.optimizers.items():
        assert optimizer.lr == pytest.approx(plain.optimizers[network].lr / 10)
        assert optimizer.final_lr == pytest.approx(plain.optimizers[network].final_lr / 10)
    with pytest.raises(UserError, match=r"give trainer\.init_from="):
        compose_run([f"model={model}", "experiment=finetune"])


def test_a_fine_tuning_goes_on_at_its_rates(tmp_path):
    base = ["model=demo_feature_cleaner", "experiment=finetune", "trainer.init_from=old"]
    folder = save(tmp_path, base)
    run = compose_run([f"trainer.ckpt_dir={folder}"])
    assert run.optimizers["cleaner"].lr == pytest.approx(1e-4)


def test_another_model_does_not_go_on_with_a_run(tmp_path):
    """It was a missing key of an optimiser."""
    folder = save(tmp_path, ["model=demo_feature_cleaner"])
    with pytest.raises(UserError, match=r"of model=demo_feature_cleaner.*start another run"):
        compose_run([f"trainer.ckpt_dir={folder}", "model=small_restorer"])
    compose_run([f"trainer.ckpt_dir={folder}", "model=demo_feature_cleaner"])


def test_files_that_changed_under_a_run_are_named(tmp_path, monkeypatch):
    folder = save(tmp_path, ["model=demo_feature_cleaner", "trainer.seed=5"])
    changed = tmp_path / "config"
    shutil.copytree(CONFIG_DIR, changed)
    file = changed / "trainer" / "default.yaml"
    file.write_text(file.read_text().replace("max_grad_norm: 1.0", "max_grad_norm: 2.0"))
    monkeypatch.setattr(config, "CONFIG_DIR", changed)
    with pytest.raises(UserError, match=r"trainer\.max_grad_norm differ"):
        compose_run([f"trainer.ckpt_dir={folder}"])
    run = compose_run([f"trainer.ckpt_dir={folder}", "trainer.max_grad_norm=3.0"])
    assert run.trainer.max_grad_norm == 3.0


def test_code_by_name_is_refused():
    overrides = ["model=demo_feature_cleaner", "+trainer._target_=os.system"]
    with pytest.raises(UserError, match="_target_"):
        compose_run(overrides)


def test_plain_data_only():
    plain = compose_plain(["model=miipher2_wavefit_pretrain"])
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain


def test_one_network_s_optimiser_needs_no_name(tmp_path):
    base = ["model=demo_feature_cleaner"]
    run = compose_run([*base, "optimizer.lr=0.5", "optimizer.betas=[0.5, 0.6]"])
    assert (run.optimizers["cleaner"].lr, run.optimizers["cleaner"].betas) == (0.5, (0.5, 0.6))
    folder = save(tmp_path, [*base, "optimizer.lr=0.5"])
    resumed = compose_run([f"trainer.ckpt_dir={folder}", "optimizer.lr=0.25"])
    assert resumed.optimizers["cleaner"].lr == 0.25
    assert resumed.overrides == [*base, "optimizer.cleaner.lr=0.25"]


def test_several_networks_optimisers_need_their_names():
    with pytest.raises(
        UserError,
        match=r"optimizer\.lr=0\.5 does not name the network.*"
        r"give optimizer\.generator\.lr=0\.5 and optimizer\.discriminator\.lr=0\.5",
    ):
        compose_run(["model=demo_wavefit_pretrain", "optimizer.lr=0.5"])


def test_a_part_of_another_name_replaces_the_run_s_on_resume(tmp_path):
    """What the new group lacks goes; what the run filled in elsewhere stays."""
    folder = save(tmp_path, ["model=demo_feature_cleaner"], trainer__output_dir="where/it/was")
    run = compose_run([f"trainer.ckpt_dir={folder}", "cleaner@model.cleaner=lora"])
    assert (
        run.model["cleaner"]
        == compose_plain(["model=demo_feature_cleaner", "cleaner@model.cleaner=lora"])["model"][
            "cleaner"
        ]
    )
    assert run.trainer.output_dir == "where/it/was"
