"""What looks like a mistake of a box is told before money is spent."""

from gearcase.box import box_from_options, doubts, load_box

LOOKS = 'import os\nprint(os.environ["DELIVERED"])\n'


def of(tmp_path, text):
    (tmp_path / "box.toml").write_text(text)
    box = load_box(tmp_path / "box.toml")
    return doubts(box.box, box.folder)


def test_a_check_whose_script_is_nowhere_is_told_with_the_nearest_name(tmp_path):
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/verify.py").write_text(LOOKS)
    (doubt,) = of(tmp_path, '[[check]]\nname = "totals"\nrun = "python3 checks/verfy.py --all $DELIVERED"\n')
    assert "totals runs checks/verfy.py, which is not there: did you mean `checks/verify.py`?" in doubt
    assert of(tmp_path, '[[check]]\nname = "totals"\nrun = "python3 checks/verify.py --all"\n') == []


def test_what_is_given_or_named_among_the_files_of_a_check_is_there(tmp_path):
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/run.sh").write_text(LOOKS)
    (tmp_path / "data/sub/one.py").write_text(LOOKS)
    assert (
        of(tmp_path, '[files]\ngive = ["data"]\n[[check]]\nname = "a"\nrun = "sh data/run.sh && python3 sub/one.py $DELIVERED"\n')
        == []
    )
    text = '[[check]]\nname = "a"\nrun = "python3 sub/one.py"\nfiles = ["data/sub"]\n'
    assert of(tmp_path, text) == []


def test_a_check_that_never_looks_at_what_is_delivered_is_told_where_that_lies(tmp_path):
    (doubt,) = of(tmp_path, '[[check]]\nname = "a"\nrun = "test -s out/clean.csv"\n')
    assert "check a does not mention $DELIVERED" in doubt
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/a.py").write_text("print(1)\n")
    assert len(of(tmp_path, '[[check]]\nname = "a"\nrun = "python3 checks/a.py"\n')) == 1
    (tmp_path / "checks/helper.py").write_text(LOOKS)
    assert len(of(tmp_path, '[[check]]\nname = "a"\nrun = "python3 checks/a.py"\nfiles = ["checks"]\n')) == 0


def test_a_module_that_no_box_sees_is_told_with_what_to_do_about_it(tmp_path):
    run = "cd '\"$DELIVERED\"' && PYTHONPATH=. python3 -m no_such_module -q"
    text = f'[[check]]\nname = "a"\nrun = """{run}"""\n'
    (doubt,) = of(tmp_path, text)
    assert "check a runs python3 -m no_such_module, which is not inside" in doubt
    assert "apt install python3-no_such_module" in doubt and ".venv/bin/pip install no_such_module" in doubt
    assert of(tmp_path, text.replace("no_such_module", "unittest")) == []
    assert of(tmp_path, f'{text}[sandbox]\npackages = ["python3:no_such_module"]\n') == []  # the run itself looks for it
    (tmp_path / ".venv/lib/python3.11/site-packages/no_such_module").mkdir(parents=True)
    assert of(tmp_path, f'{text}files = [".venv"]\n') == []
    assert of(tmp_path, f'{text}[files]\ngive = ["."]\n') == []


def test_what_is_no_script_is_not_doubted(tmp_path):
    told = of(
        tmp_path, '[[check]]\nname = "a"\nrun = "test -s $DELIVERED/out/totals.csv && pytest -q $HOME/x.py /opt/y.py *.py"\n'
    )
    assert told == []
    assert doubts(box_from_options([]).box, tmp_path) == []
