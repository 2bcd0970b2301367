# SPDX-License-Identifier: BSD-2-Clause
"""The tables of migrations as pictures: a bar for each way, its median with the smallest and the largest."""

import os
import sys

from report import COLUMNS, good, median

DRAWN = ("total ms", "CPU s", "seen by guest ms")
COLORS = {"ferry": "#1f6f8b", "QEMU": "#c8803a", "bare": "#999999"}


def bars(axes, runs, head, value):
    """One column of a table."""
    names = [name for name in runs if median(runs[name], value) is not None]
    for y, name in enumerate(reversed(names)):
        found = [f for f in (value(r) for r in good(runs[name])) if f is not None]
        middle = median(runs[name], value)
        axes.barh(y, middle, color=COLORS[name.replace(",", "").split()[0]],
                  xerr=[[middle - min(found)], [max(found) - middle]], capsize=2)
    axes.set_yticks(range(len(names)), reversed(names), fontsize=8)
    axes.set_title(head, fontsize=9)
    axes.set_xlim(left=0)


def draw(migrations, folder, say):
    """SVG files in @folder: their names by case. matplotlib is an extra (package python3-matplotlib)."""
    try:
        import matplotlib
    except ImportError:
        say("bench: no plots: %s has no matplotlib (package python3-matplotlib)" % sys.executable)
        return {}
    matplotlib.use("svg")
    from matplotlib import pyplot
    drawn = {}
    for result in migrations:
        columns = [c for c in COLUMNS if c[0] in DRAWN and median(result["runs"]["ferry"], c[1]) is not None]
        if not columns:
            continue
        figure, axes = pyplot.subplots(1, len(columns), figsize=(4.5 * len(columns), 3), squeeze=False)
        for at, column in zip(axes[0], columns):
            bars(at, result["runs"], column[0], column[1])
        figure.suptitle("Migration, " + result["text"], fontsize=10)
        figure.tight_layout()
        name = "migration-%s.svg" % result["case"]
        figure.savefig(os.path.join(folder, name))
        pyplot.close(figure)
        drawn[result["case"]] = [name]
    return drawn
