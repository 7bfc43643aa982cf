"""Claims files: what is accepted, what is refused and with which line, and that nothing in them is ever executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.claims.claim import Claim, ClaimsError, Expectation
from analysis.claims.claims_file import MOST_BYTES, load_claims, parse_claims, shipped_claims
from analysis.claims.measures import claim_kinds
from tests.support.made_up_inputs import try_inputs

GOOD = """
title = "Another paper"

[needs.full]
width = 64
epochs = 10
complete_data = true

[needs.small]
width = 16

[[claim]]
id = "accuracy"
section = "2.1"
statement = "The final accuracy is 90 %."
query = { kind = "metric", metric = "final_test_accuracy", cell = { batch_size = 32 } }
expect = { value = 0.9, tolerance = 0.01 }
needs = ["full", "small"]
min_seeds = 3

[[claim]]
id = "bound"
section = "3"
statement = "Gradients never explode."
query = { kind = "layers", column = "gradient_max_abs", statistic = "max" }
expect = { at_most = 10 }
"""


def _refused(text: str, *words: str) -> str:
    with pytest.raises(ClaimsError) as caught:
        parse_claims(text.encode(), "paper.toml")
    message = str(caught.value)
    assert message.startswith("paper.toml")
    for word in words:
        assert word in message
    return message


def test_a_good_file() -> None:
    claims = parse_claims(GOOD.encode(), "paper.toml")
    first, second = claims.claims
    assert claims.title == "Another paper"
    assert first.expect == Expectation(0.89, 0.91, 0.9)
    assert first.needs == {"width": 16, "epochs": 10, "complete_data": True}
    assert first.min_seeds == 3
    assert first.query["cell"] == {"batch_size": 32}
    assert second.expect == Expectation(high=10.0)
    assert second.needs == {}
    assert second.query["groups"] is None


def test_the_worksheet_has_every_checkable_statement() -> None:
    claims = load_claims().claims
    assert len(claims) >= 25
    assert len({claim.id for claim in claims}) == len(claims)
    laws = parse_claims(shipped_claims("stability"), "stability.toml").claims
    kinds = {
        "critical_batch",
        "difference",
        "epoch",
        "layers",
        "layers_change",
        "layers_order",
        "metric",
        "model",
        "prediction",
        "steps",
    }
    assert {claim.query.kind for claim in (*claims, *laws)} == kinds
    assert kinds <= set(claim_kinds())
    assert {claim.query.kind for claim in laws} == {"prediction", "critical_batch"}
    assert {claim.section for claim in claims} == {"2", "3", "4", "5", "6", "7"}
    assert all('"' not in claim.statement for claim in claims)
    rates = [c.expect.value for c in claims if c.query["column"] == "learning_rate"]
    assert rates == [0.1494, 0.1357, 0.0982, 0.0518, 0.0143, 0.0, 0.1992, 0.1809, 0.1309, 0.0691, 0.0191, 0.0]
    assert _by_id("flops").expect.value == 556_652_554
    assert _by_id("test-accuracy-experiment-2").expect.value == 0.9239


def test_only_claims_about_training_need_the_original_data() -> None:
    for claim in load_claims().claims:
        free = claim.query.kind == "model" or claim.query["column"] == "learning_rate"
        if free or claim.query["metric"] in ("steps_per_epoch", "train_time_s"):
            assert "data_source" not in claim.needs
        else:
            assert claim.needs["data_source"] == "original batch files"
            assert claim.needs["width"] == 64


def test_claims_about_the_published_training_need_its_schedule() -> None:
    """With a warm-up the learning rates are others, and what was published cannot be tested."""
    for claim in load_claims().claims:
        if claim.query["column"] == "learning_rate" or "momentum" in claim.needs:
            schedule = tuple(claim.needs[name] for name in ("epochs", "warmup_epochs", "schedule"))
            assert schedule == (25, 0, "cosine")
        if "momentum" in claim.needs:
            assert (claim.needs["optimizer"], claim.needs["nesterov"], claim.needs["label_smoothing"]) == (
                "sgd",
                False,
                0,
            )


def _by_id(name: str) -> Claim:
    return next(claim for claim in load_claims().claims if claim.id == name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'metric = "final_test_accuracy"',
            'metric = "final_accuracy"',
            ["query.metric 'final_accuracy': is not one of final_test_accuracy, ", ", train_time_s"],
        ),
        ('kind = "metric"', 'kind = "python"', ["query: kind 'python' is not one of critical_batch, ", ", prediction"]),
        ('kind = "metric"', "kind = [1]", ["query: kind [1] is not one of critical_batch, "]),
        ("batch_size = 32 }", 'batch_size = "x" }', ["query.cell: batch_size='x'"]),
        ("batch_size = 32 }", "batch_sise = 32 }", ["did you mean batch_size"]),
        ("batch_size = 32 }", "seed = 0 }", ["a cell has no seed"]),
        ("cell = { batch_size = 32 }", "cell = {}", ["query.cell: is empty"]),
        (", cell = { batch_size = 32 }", "", ["query.cell: is missing"]),
        ("tolerance = 0.01", "tolerance = -1", ["expect.tolerance -1: should be greater than or equal to 0"]),
        ("tolerance = 0.01", "tolerance = nan", ["expect.tolerance nan: is not a number"]),
        ("value = 0.9", "value = true", ["expect.value True: is not a number"]),
        ("value = 0.9", "value = 1e999", ["expect.value inf: is not a number"]),
        ("value = 0.9, tolerance = 0.01", "value = 0.9", ["expect: is none of", "{ order = true }"]),
        ("value = 0.9, tolerance = 0.01", "range = [2, 1]", ["expect.range: is empty: low is not below high"]),
        ("value = 0.9, tolerance = 0.01", "range = [1]", ["expect.range: List should have at least 2 items"]),
        (
            "value = 0.9, tolerance = 0.01",
            'direction = "up"',
            ["expect.direction 'up': should be 'positive' or 'negative'"],
        ),
        ("value = 0.9, tolerance = 0.01", "order = true", ["layers_order"]),
        ('needs = ["full", "small"]', 'needs = ["all"]', ["needs.0 'all': is not one of full, small"]),
        (
            "cell = { batch_size = 32 }",
            "cell = { batch_size = 32 }, cells = [{ width = 8 }]",
            ["query: unknown key 'cells'; keys are metric, cell"],
        ),
        ("min_seeds = 3", "min_seeds = 0", ["min_seeds 0: should be greater than or equal to 1"]),
        ("min_seeds = 3", "min_seeds = 1.5", ["min_seeds 1.5: should be a valid integer"]),
        ('statement = "The final accuracy is 90 %."', "", ["statement: is missing"]),
        ('statement = "The final accuracy is 90 %."', "statement = 1", ["statement 1: should be a valid string"]),
        ("min_seeds = 3", "exec = 'rm'", ["unknown key 'exec'; keys are id, section"]),
        ("min_seeds = 3", "source = 'rumour'\nreading = 'so'", ["source 'rumour': should be 'text only'"]),
        ("min_seeds = 3", "source = 'text only'", ["reading is missing"]),
        ("min_seeds = 3", "reading = 'so'", ["source is missing"]),
    ],
)
def test_a_wrong_claim_is_refused_with_its_line(old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    message = _refused(GOOD.replace(old, new), *words)
    line = 1 + GOOD[: GOOD.index("[[claim]]")].count("\n")
    assert message.startswith(f"paper.toml:{line}: claim 'accuracy'")


def test_the_line_is_that_of_the_claim_that_is_wrong() -> None:
    text = GOOD.replace('statistic = "max"', 'statistic = "sum"')
    line = 1 + text[: text.rindex("[[claim]]")].count("\n")
    assert _refused(text, "statistic").startswith(f"paper.toml:{line}: claim 'bound'")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("3", "query.cells 3: should be a valid list"),
        ("[]", "query.cells: is empty"),
        ("[{}]", "query.cells.0: is empty"),
        ("[{ seed = 0 }]", "a cell has no seed"),
        ("[{ width = 8 }], cell = { width = 8 }", "query: has both cell and cells"),
    ],
)
def test_several_cells_of_a_query_are_checked_one_by_one(cells: str, words: str) -> None:
    _refused(GOOD.replace('statistic = "max"', f'statistic = "max", cells = {cells}'), "claim 'bound'", words)


def test_claims_that_only_the_text_makes_say_how_they_are_read() -> None:
    text_only = {claim.id: claim.reading for claim in load_claims().claims if claim.source == "text only"}
    assert set(text_only) == {"gradient-norm-at-convergence", "update-rank", "weights-below-one"}
    assert _by_id("weights-below-one").query["column"] == "weight_mean_abs", "max |w| of batch norm begins at 1.0"
    assert all(text_only.values())


def test_a_repeated_id_is_refused() -> None:
    _refused(GOOD.replace('id = "bound"', 'id = "accuracy"'), "claim 'accuracy'", "used twice")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = 'x'\n[[claim]\n", ["not valid TOML", "line 2"]),
        ("", ["title: is missing"]),
        ("title = 'x'\nclaim = []", ["claim: is empty"]),
        ("title = 'x'\nclaim = 3", ["claim 3: should be a valid list"]),
        ("title = 'x'\nclaim = [1]", ["claim None", "not a table"]),
        ("title = ''\nclaim = [1]", ["title '': is empty"]),
        ("title = 'x'\nhook = 'os.system'\nclaim = [1]", ["unknown key 'hook'"]),
        ("title = 'x'\nneeds = 3\nclaim = [1]", ["needs 3: should be a valid table"]),
        ("title = 'x'\nneeds = {a = {}}\nclaim = [1]", ["needs.a: is empty"]),
        ("title = 'x'\nneeds = {a = {width = 'wide'}}\nclaim = [1]", ["needs.a: width='wide'"]),
        ("x = " + "[" * 5000, ["not valid TOML"]),
        ("x = " + "9" * 5000, ["not valid TOML"]),
    ],
)
def test_a_wrong_file_is_refused(text: str, words: list[str]) -> None:
    _refused(text, *words)


def test_bytes_that_are_no_text_and_files_that_are_too_large() -> None:
    with pytest.raises(ClaimsError, match="not UTF-8"):
        parse_claims(b"title = '\xff'", "paper.toml")
    with pytest.raises(ClaimsError, match="larger than"):
        parse_claims(b"#" * (MOST_BYTES + 1), "paper.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match=r"none\.toml: cannot be read \(No such file"):
        load_claims(tmp_path / "none.toml")
    (tmp_path / "claims.toml").write_text(GOOD)
    assert len(load_claims(tmp_path / "claims.toml").claims) == 2


def test_code_in_a_file_is_only_text(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    code = f"__import__('pathlib').Path({str(victim)!r}).write_text('x')"
    text = GOOD.replace("The final accuracy is 90 %.", "{{ cycler.__init__ }} " + code.replace('"', "'"))
    claims = parse_claims(text.encode(), "paper.toml")
    assert code in claims.claims[0].statement
    _refused(GOOD.replace("final_test_accuracy", code.replace('"', "'")), "is not one of")
    assert not victim.exists()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "cell", "value"]), inner),
    max_leaves=6,
)


@try_inputs(500)
@given(st.data())
def test_any_change_to_a_good_file_is_accepted_or_refused_in_one_line(data: st.DataObject) -> None:
    """Lines are dropped, repeated, cut and overwritten by other TOML: never anything but a ClaimSet or a ClaimsError."""
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["drop", "repeat", "cut", "value", "bytes"]))
        if change == "drop":
            lines[number] = ""
        elif change == "repeat":
            lines.insert(number, lines[data.draw(st.integers(0, len(lines) - 1))])
        elif change == "cut":
            lines[number] = lines[number][: data.draw(st.integers(0, 40))]
        elif change == "bytes":
            lines[number] += data.draw(st.text(max_size=6))
        else:
            lines[number] = re.sub(r"=.*", lambda _: f"= {_toml(data.draw(_VALUES))}", lines[number], count=1)
    try:
        claims = parse_claims("\n".join(lines).encode(errors="replace"), "paper.toml").claims
    except ClaimsError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert all(claim.query.kind in claim_kinds() and claim.expect.low <= claim.expect.high for claim in claims)
    assert refusal == "" or refusal.startswith("paper.toml")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return repr(value)
