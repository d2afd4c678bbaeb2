"""Erase Concepts and Keep Concepts, run in process as ComfyUI runs them."""


def erase(run, **inputs):
    return run("TRCEEraseConcepts", **inputs)


def test_what_is_written_comes_out_one_concept_per_line(run):
    concepts, report = erase(run, concepts="a gun | a pistol -> an umbrella\nblood  # red")
    assert concepts == "a gun -> an umbrella\na pistol -> an umbrella\nblood"
    assert "3 concepts" in report
