import pytest
from IPython.core.interactiveshell import InteractiveShell

from diffcore import scope
from diffcore.params import change_params, load_params


@pytest.fixture
def shell(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return shell


def without_world():
    changes = {
        "data.dataset": "folder",
        "data.root": "photographs",
        "generation.pipeline.kind": "stand_in",
        "trials.side_studies": False,
    }
    return change_params(load_params("demo"), changes)


def test_paperbirds_knows_everything_and_stand_ins_know_which_images_are_wrong():
    assert scope.known(load_params("demo")) == set(scope.KNOWLEDGE) - {"stand-ins", "imports"}
    assert scope.known(without_world()) == {"truth", "texts", "stand-ins"}


def test_imported_images_of_unknown_truth_leave_only_what_does_not_need_it():
    imported = change_params(
        load_params("demo"),
        {"generation.pipeline.kind": "import", "generation.pipeline.location": "x"},
    )
    assert not scope.known(imported) & {"world", "truth", "pipeline"}


def test_a_cell_runs_only_where_all_that_it_needs_is_known(shell, capsys):
    scope.watch_cells(without_world())
    shell.run_cell("# needs: truth\nfirst = 1")
    shell.run_cell("# needs: truth, masks\nsecond = 1")
    shell.run_cell("third = 1")
    assert {"first", "third"} <= set(shell.user_ns)
    assert "second" not in shell.user_ns
    assert "Skipped: needs masks or boxes" in capsys.readouterr().out


def test_another_profile_in_the_same_session_replaces_the_first(shell):
    scope.watch_cells(without_world())
    scope.watch_cells(load_params("demo"))
    shell.run_cell("# needs: masks, world\nvalue = 1")
    assert shell.user_ns["value"] == 1


def test_a_need_that_nobody_has_is_named():
    with pytest.raises(ValueError, match=r"needs 'mask'; it can need world, truth"):
        scope.needs("# needs: mask\nx = 1")


def test_prose_says_what_it_needs_in_a_comment_of_its_own():
    assert scope.needs("<!-- needs: world, masks -->\n## Heading") == ["world", "masks"]


def test_other_comments_ask_for_nothing():
    assert scope.needs("# we need: more\nx = 1") == []
