"""The command line: flag files, their lookup, and what is refused."""

import pathlib

import pytest

from experiments import stages
from experiments.settings import config, flagfiles, options
from threats import corruptions

OFFICIAL = (
    "pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist",
    "breastmnist", "bloodmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist",
)  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_set_has_its_flag_file(name):
    chosen, run = options.parse([f"--flagfile={name}.flags"])
    assert chosen.data.dataset == name
    assert run.output == f"runs/{name}-medmamba_n-s0"
    assert run.stages == config.STAGES


@pytest.mark.parametrize("path", sorted(flagfiles.DIRECTORY.glob("*.flags")), ids=lambda path: path.name)
def test_every_flag_file_opens_with_command_time_and_expected_result(path):
    comment = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert path.read_text().startswith("#")
    assert f"python -m experiments.run --flagfile={path.name}" in comment
    assert "Time: " in comment
    assert "Expected result: " in comment


def test_a_flag_after_the_file_overrides_it_and_lists_replace():
    chosen, _ = options.parse(["--flagfile=demo.flags", "--seed=3", "--epsilons=0,1", "--epsilons", "0,2"])
    assert chosen.seed == 3
    assert chosen.train.seed == 3
    assert chosen.adversarial.epsilons == (0.0, 2.0)


def test_all_corruptions_are_those_with_the_preset():
    def chosen(*flags):
        return options.parse(["--flagfile=demo.flags", *flags])[0].corruption.corruptions

    default = chosen()
    assert default == ("gaussian_noise", "defocus_blur")
    assert chosen("--corruptions=all") == tuple(corruptions.CORRUPTIONS)
    assert len(chosen("--corruptions=all", "--corruption_preset=imagenet-c")) == 19
    derma = chosen("--corruptions=all", "--corruption_preset=medmnist-c/derma")
    assert {"black_corner", "characters", "zoom_blur"} <= set(derma)
    assert len(derma) == 15
    with pytest.raises(ValueError, match=r"corruption_preset must be one of .* got 'mine'"):
        chosen("--corruptions=all", "--corruption_preset=mine")


def test_orders_and_fills_of_occlusion_are_chosen_by_flags():
    def chosen(*flags):
        occlusion = options.parse(["--dataset=breastmnist", *flags])[0].occlusion
        return occlusion.modes, occlusion.fills

    assert chosen() == (("random", "salient"), ("zero",))
    flags = ["--occlusion_modes=scan_rows,scan_columns_reversed", "--occlusion_fills=mean,noise"]
    assert chosen(*flags) == (("scan_rows", "scan_columns_reversed"), ("mean", "noise"))


@pytest.mark.parametrize(
    "spelling", [["--flagfile=demo.flags"], ["--flagfile", "demo.flags"], ["-flagfile=demo.flags"]]
)
def test_a_bare_name_is_found_from_any_directory(spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options.parse(spelling)[0].data.dataset == "synthetic_blood"


def test_the_current_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("demo.flags").write_text("# mine\n--dataset=breastmnist\n")
    assert options.parse(["--flagfile=demo.flags"])[0].data.dataset == "breastmnist"


def test_flag_files_nest_and_look_beside_themselves_first(tmp_path):
    (tmp_path / "outer.flags").write_text("--flagfile=inner.flags\n\n// a comment\n--seed=2\n")
    (tmp_path / "inner.flags").write_text("--dataset=breastmnist\n--seed=1\n")
    chosen, _ = options.parse([f"--flagfile={tmp_path / 'outer.flags'}"])
    assert (chosen.data.dataset, chosen.seed) == ("breastmnist", 2)


def test_a_file_that_reads_itself_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=a.flags\n")
    with pytest.raises(ValueError, match=r"a.flags reads itself: a.flags -> b.flags -> a.flags"):
        options.parse([f"--flagfile={tmp_path / 'a.flags'}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs=3", r"x.flags line 2: every line must be a flag such as --epochs=10, got 'epochs=3'"),
        ("--epochs 3", r"x.flags line 2: write --flag=value, got '--epochs 3'"),
        ("--epoch=3", "Unknown command line flag 'epoch'"),
    ],
)
def test_a_line_that_is_no_flag_is_refused(line, message, tmp_path):
    (tmp_path / "x.flags").write_text(f"--dataset=breastmnist\n{line}\n")
    with pytest.raises(ValueError, match=message):
        options.parse([f"--flagfile={tmp_path / 'x.flags'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=breastmnist", "train"], "unexpected argument 'train'"),
        (["--dataset=breastmnist", "--", "--seed=1"], "unexpected argument '--seed=1'"),
        (["--dataset=breastmnist", "--epochs=ten"], "epochs"),
        (["--dataset=breastmnist", "--seed"], "Missing value for flag --seed"),
        (["--dataset=breastmnist", "--stages=train,test"], "stages must be among train, clean, .*; got 'test'"),
        (["--dataset=breastmnist", "--stages="], "stages must name at least one"),
        (["--dataset=breastmnist", "--epsilons=0,one"], "epsilons must be numbers with commas, got '0,one'"),
        (["--dataset=breastmnist", "--fault_flips=1.5"], "fault_flips must be whole numbers with commas"),
        (["--dataset=breastmnist", "--trial_strategy=fast"], "trial_strategy"),
        (["--dataset=breastmnist", "--trial_strategy=measure"], "measure is of a campaign"),
        (
            ["--dataset=breastmnist", "--fault_modes=campaign", "--shard=1/2", "--trial_strategy=measure"],
            "measure is of one machine",
        ),
        (["--dataset=breastmnist", "--images_at_once=0"], "images_at_once must be at least 1"),
        (
            ["--dataset=breastmnist", "--init_from=zoo:x", "--model=medmamba_t"],
            "--model cannot be given with --init_from",
        ),
        (["--dataset=breastmnist", "--npz=x.npz"], "either --dataset=NAME .* or --npz=FILE"),
        ([], "either --dataset=NAME .* or --npz=FILE"),
        (["--flagfile"], "--flagfile must be followed by the name"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        options.parse(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("modes", ["worst", "random,worst", "campaign,worst"])
def test_the_worst_case_can_be_of_some_sites(modes):
    arguments = ["--dataset=breastmnist", f"--fault_modes={modes}", "--fault_include=*/kernel,head/*"]
    chosen = options.parse([*arguments, "--fault_exclude=patch_embed/*"])[0].fault
    assert (chosen.worst_include, chosen.worst_exclude) == (("*/kernel", "head/*"), ("patch_embed/*",))
    assert chosen.restricts
    if "campaign" in modes:
        assert (chosen.campaign.include, chosen.campaign.exclude) == (chosen.worst_include, chosen.worst_exclude)
    else:
        assert chosen.campaign is None


def test_sites_of_a_campaign_alone_are_its_own():
    chosen = options.parse(["--dataset=breastmnist", "--fault_modes=campaign", "--fault_include=head/*"])[0].fault
    assert chosen.campaign.include == ("head/*",)
    assert not chosen.restricts


@pytest.mark.parametrize("modes", ["random", "layerwise", "random,layerwise"])
@pytest.mark.parametrize("flag", ["fault_include", "fault_exclude", "number_formats"])
def test_sites_and_formats_are_of_a_campaign_or_the_worst_case(modes, flag):
    message = f"{flag} is of a campaign or the worst case: add campaign or worst to --fault_modes"
    with pytest.raises(ValueError, match=message):
        options.parse(["--dataset=breastmnist", f"--fault_modes={modes}", f"--{flag}=int8"])


def test_what_is_of_a_campaign_alone_is_refused_beside_the_worst_case():
    arguments = ["--dataset=breastmnist", "--fault_modes=worst", "--fault_include=*/kernel", "--fault_field=sign"]
    with pytest.raises(ValueError, match="fault_field is of a campaign: add campaign"):
        options.parse(arguments)


def test_a_missing_flag_file_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no flag file 'blod.flags' .*bloodmnist.flags.*demo.flags"):
        options.parse(["--flagfile=blod.flags"])


def test_help_states_every_flag_with_its_default():
    with pytest.raises(options.HelpRequested) as caught:
        options.parse(["--dataset=breastmnist", "--help"])
    text = str(caught.value)
    for expected in ("--epsilons", "units of 1/255", "--fault_trials", "(default: '400')", "zoo:NAME"):
        assert expected in text


def test_stages_run_in_their_own_order_whatever_order_they_are_given_in():
    _, run = options.parse(["--dataset=breastmnist", "--stages=report,fault,clean"])
    assert run.stages == ("clean", "fault", "report")


def test_the_stages_that_can_be_asked_for_are_those_there_are():
    assert (*stages.STAGES, "report") == config.STAGES


@pytest.mark.parametrize("line", ["--debug", "--debug=true", "--nodebug", "--debug=false"])
def test_debug_is_read_as_any_flag_is(line, tmp_path):
    (tmp_path / "x.flags").write_text(f"--dataset=breastmnist\n{line}\n")
    assert options.parse([f"--flagfile={tmp_path / 'x.flags'}"])[1].debug == (line in ("--debug", "--debug=true"))


def test_an_own_file_is_filed_under_its_own_name(monkeypatch):
    monkeypatch.setenv("MEDMNIST_ROOT", "/somewhere")
    chosen, run = options.parse(["--npz=some/where/cells.npz", "--class_names=a,b c", "--task=ordinal"])
    assert (chosen.data.dataset, chosen.data.class_names, chosen.data.task) == ("cells", ("a", "b c"), "ordinal")
    assert run.output == "runs/cells-medmamba_n-s0"
    assert run.data_dir == "/somewhere"
