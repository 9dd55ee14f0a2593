"""Fields of a quantity that do not go together are refused where it is declared."""

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.quantities import (
    AMPLITUDES,
    MAIN,
    TOTALS,
    Declaration,
    Quantity,
    Role,
    amplitude,
    concentration,
    data_share,
    error_part,
    lineshape,
    measure_of,
    named_by,
    property_of,
    quality,
    ratio,
    reason,
    safe_label,
    signal,
)

NAA = amplitude("NAA", "amount of NAA")
TCR = amplitude("CrPCr", "amount of both", role=Role.COMBINATION, title="tCr")


@pytest.mark.parametrize(
    ("quantity", "name", "maps", "columns"),
    [
        (NAA, "NAA", ("met-NAA_desc-signal", "met-NAA_desc-crlb", "met-NAA_desc-sd"),
         ("NAA", "NAA_sd", "NAA_crlb")),
        (ratio(NAA, TCR, "their ratio", "both"), "NAA_per_CrPCr",
         ("met-NAAperCrPCr_desc-ratio", "met-NAAperCrPCr_desc-ratiosd"),
         ("NAA_per_CrPCr", "NAA_per_CrPCr_sd")),
        (concentration(NAA, "mmol/L", "how much", "of the fit"), "NAA_conc",
         ("met-NAA_desc-conc", "met-NAA_desc-concsd"), ("NAA_conc", "NAA_conc_sd")),
        (property_of(NAA, "t2", "ms", "its T2", "spread"), "t2_NAA",
         ("met-NAA_desc-t2", "met-NAA_desc-t2sd"), ("t2_NAA", "t2_NAA_sd")),
        (measure_of(NAA, "score", "1", "its score"), "score_NAA", ("met-NAA_desc-score",),
         ("score_NAA",)),
        (error_part(NAA, "crlb", "a part", title="CRLB", desc="crlbabs"), "crlb_NAA",
         ("met-NAA_desc-crlbabs",), ("NAA_crlbabs",)),
        (data_share(NAA, "of the data"), "data_share_NAA", ("desc-datashareNAA",),
         ("data_share_NAA",)),
        (lineshape("eddy_shift", "Hz", "a shift"), "eddy_shift", ("desc-eddyshift",),
         ("eddy_shift", "eddy_shift_sd")),
        (quality("fit_quality", "1", "how good"), "fit_quality", ("desc-fitquality",),
         ("fit_quality",)),
        (reason("not_scaled", "why"), "not_scaled", ("desc-notscaled",), ("not_scaled",)),
        (signal("fit", "the model"), "fit", ("desc-fit",), ("fit",)),
    ],
)  # fmt: skip
def test_names_maps_and_columns_of_every_role(quantity, name, maps, columns):
    assert (quantity.name, quantity.maps, quantity.columns) == (name, maps, columns)


def test_every_role_has_a_constructor():
    made = {NAA, TCR, amplitude("MM", "m", role=Role.MACROMOLECULE)}
    made |= {
        ratio(NAA, TCR, "d", "s"),
        concentration(NAA, "mM", "d", "s"),
        property_of(NAA, "t2", "ms", "d", "s"),
        error_part(NAA, "crlb", "d", title="t"),
        data_share(NAA, "d"),
        lineshape("shift", "Hz", "d"),
        quality("snr", "1", "d"),
        reason("why", "d"),
        signal("fit", "d"),
    }
    assert {q.role for q in made} == set(Role)


def test_what_a_quantity_is_of_does_not_hang_on_its_name():
    own = ratio(NAA, TCR, "their ratio", "both").by("map")
    assert (own.name, own.of, own.reference) == ("NAA_per_CrPCr_map", "NAA", "CrPCr")
    assert own.maps[0] == "met-NAAperCrPCrmap_desc-ratio"
    assert (own.estimator, own.label) == ("map", "NAA/tCr (map)")
    assert concentration(TCR, "mM", "d", "s").label == "tCr"
    assert property_of(TCR, "t2", "ms", "d", "s", title="T2").label == "T2 of tCr"


def test_another_estimators_part_of_a_total_is_none():
    shift = lineshape("shift", "Hz", "of the fit", adds_to="b0shift", desc="fitshift")
    assert shift.maps == ("desc-fitshift",)
    assert (shift.by("map").adds_to, shift.by("map").maps) == ("", ("desc-shiftmap",))
    assert named_by("shift", "map") == shift.by("map").name
    assert named_by("shift", MAIN) == "shift"


GOOD = {"name": "x", "role": Role.LINESHAPE, "units": "Hz", "doc": "a shift"}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"name": ""}, "name is empty"),
        ({"units": ""}, "'x': units is empty; every number in a file says what it is"),
        ({"doc": ""}, "doc is empty"),
        ({"role": "liquid"}, "role 'liquid': no such role; there are metabolite, macromolecule"),
        ({"role": Role.METABOLITE}, "a metabolite is about one amplitude; give its name as `of`"),
        ({"role": Role.DATA_SHARE}, "a data share is about one amplitude"),
        ({"role": Role.RATIO, "of": "NAA"}, "a ratio has a `reference`"),
        ({"reference": "Cr"}, "a lineshape has no reference, found 'Cr'"),
        ({"fill": float("nan")}, "fill = nan is no number; leave it out"),
        ({"adds_to": "b1"}, "adds_to = 'b1': no such total; there are b0shift, phase"),
        ({"adds_to": "phase"}, "adds_to = 'phase', which is in rad, found Hz"),
        ({"adds_to": "b0shift", "of": "NAA"}, "of the whole spectrum"),
        ({"adds_to": "b0shift", "estimator": "map"}, "by the main estimator"),
        ({"adds_to": "b0shift", "role": Role.QUALITY}, "only a lineshape parameter"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, match):
    Quantity(**GOOD)
    with pytest.raises(InputError, match=match):
        Quantity(**{**GOOD, **wrong})


@pytest.mark.parametrize("kind", ["parameters", "measures", "signals"])
def test_a_quantity_stands_among_its_like(kind):
    others = {"parameters": quality("q", "1", "d"), "measures": NAA, "signals": NAA}
    with pytest.raises(InputError, match=f"cannot be one of the {kind}, which are"):
        Declaration(**{kind: (others[kind],)})


def test_declarations_add_up_and_know_their_stages():
    fit = Declaration((NAA,), signals=(signal("fit", "d"),)).of_stage("quantify")
    both = fit + Declaration(measures=(quality("snr", "1", "d"),)).of_stage("noise")
    assert [q.stage for q in (*both.parameters, *both.measures)] == ["quantify", "noise"]
    assert both.check() is both


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"parameters": (NAA,)}, "the name 'NAA' would be that of"),
        ({"measures": (quality("NAA", "1", "d"),)}, "the name 'NAA'"),
        ({"measures": (quality("NAA_crlb", "1", "d"),)}, "the column 'NAA_crlb'"),
        ({"measures": (quality("b0_shift", "Hz", "d"),)}, "the map 'desc-b0shift'"),
        ({"measures": (quality("x_mm", "mm", "d"),)}, "the column 'x_mm'"),
        ({"signals": (signal("residual", "d"),)}, "the map 'desc-residual'"),
        ({"signals": (signal("fit", "d"), signal("fit", "e"))}, "the name 'fit'"),
        ({"measures": (quality("fit", "1", "d"),), "signals": (signal("fit", "d"),)},
         "the map 'desc-fit'"),
        ({"parameters": (amplitude("N-A-A", "d"),)}, "the map 'met-NAA_desc-signal'"),
    ],
)  # fmt: skip
def test_two_of_one_name_map_or_column_are_refused(more, match):
    declared = Declaration((NAA,)) + Declaration(**more)
    with pytest.raises(InputError, match=match):
        declared.check()


def test_totals_are_named_as_their_maps():
    assert [total.name for total in TOTALS.values()] == list(TOTALS)
    assert all(safe_label(name) == name for name in TOTALS)
    assert all(role in Role for role in AMPLITUDES)
