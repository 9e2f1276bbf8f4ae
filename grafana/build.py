"""Builds ``dashboards/meltd-overview.json``: ``python -m grafana.build`` writes it, ``--check`` fails if it differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from grafana.panels import ROWS, Kind, Panel

TARGET: Final = Path(__file__).parent / "dashboards" / "meltd-overview.json"
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

PanelBuilder = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel


def _empty(kind: Kind) -> PanelBuilder:
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    if kind == "stat":
        return stat.Panel().reduce_options(reduced).graph_mode(common_models.BigValueGraphMode.NONE)
    if kind == "bars":
        bars = bargauge.Panel().reduce_options(reduced).orientation(common_models.VizOrientation.HORIZONTAL)
        return bars.display_mode(common_models.BarGaugeDisplayMode.BASIC)
    if kind == "table":
        return table.Panel()
    legend = (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.TABLE)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = (
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )
    return timeseries.Panel().legend(legend).tooltip(tooltip).fill_opacity(8).line_width(1)


def _words(panel: Panel) -> list[models.ValueMapping]:
    options = {
        value: models.ValueMappingResult(text=word, color=colour, index=index)
        for index, (value, word, colour) in enumerate(panel.words)
    }
    return [models.ValueMap(options=options)] if options else []


def _panel(panel: Panel, number: int) -> PanelBuilder:
    built = _empty(panel.kind)
    built.id(number).title(panel.title).description(panel.description).datasource(SOURCE)
    built.unit(panel.unit).span(panel.width).height(panel.height).no_value("no data").mappings(_words(panel))
    steps = [models.Threshold(value=None, color="green")]
    steps += [models.Threshold(value=value, color=colour) for value, colour in panel.steps]
    built.thresholds(build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.bottom is not None:
        built.min(panel.bottom)
    if panel.top is not None:
        built.max(panel.top)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        target.datasource(SOURCE).editor_mode(prometheus_models.QueryEditorMode.CODE)
        if panel.kind == "lines":
            target.range()
        else:
            target.instant()
        if panel.kind == "table":
            target.format(prometheus_models.PromQueryFormat.TABLE)
        built.with_target(target)
    return built


def _variable(name: str, label: str, query: str) -> build.QueryVariable:
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    variable = build.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    variable.multi(True).include_all(True).all_value(".+").current(everything)
    return variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)


def overview() -> models.Dashboard:
    """The one dashboard, with its rows in the order in which an operator asks."""
    board = (
        build.Dashboard("meltd overview")
        .uid("meltd-overview")
        .description("Ecash kept the same as its mints: what needs a person first, then drift, melts, money, edges.")
        .tags(["meltd", "cashu"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", "label_values(meltd_build_info, job)"))
        .with_variable(_variable("instance", "Instance", 'label_values(meltd_build_info{job=~"$job"}, instance)'))
    )
    number = 0
    for title, panels in ROWS:
        number += 1
        board.with_row(build.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(_panel(panel, number))
    return board.build()


def rendered() -> str:
    """The dashboard as it is committed."""
    return json.dumps(overview(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the dashboard, or with ``--check`` say whether the committed one is the generated one."""
    text = rendered()
    if arguments == ["--check"]:
        same = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        print(f"{TARGET.name} is {'up to date' if same else 'stale: run python -m grafana.build'}")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
