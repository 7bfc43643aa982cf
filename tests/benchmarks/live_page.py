"""What the live page costs: `python -m tests.benchmarks.live_page [--trials 1000] [--epochs 100] [--pages 10]`.

A study of so many trials in 5 cells (records without training), in which one of 8 running trials ends an epoch every two seconds. A
real Chromium opens its page: time to the first curve, bytes of an update, time between frames while the page is scrolled and the
pointer moves; then so many pages listen: the server's memory and share of a core. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.records.study_folder import StudyFolder
from tests.end_to_end.browser import Browser, find_chromium, open_browser
from tests.end_to_end.test_live_page import DRAWN, serve, visit, wait_for
from tests.support.studies import build_cell, write_synthetic_study
from trainable.config import FIELDS, TrialConfig
from trainable.records.trial_state import TrialState, write_state

_RUNNING = 8  # trials of the last cell, which has no others
_FRAMES = (
    "window.frames_ms = []; window.measuring = true; window.before = performance.now(); (function frame() {"
    "const now = performance.now(); frames_ms.push(now - before); before = now; if (measuring) requestAnimationFrame(frame) })()"
)


def write_study(path: Path, num_trials: int, epochs: int) -> tuple[StudyFolder, list[str]]:
    """The study, and the trials of which nothing is gathered yet: they run."""
    cells = [
        build_cell(
            f"batch {16 * 2**n}", batch_size=16 * 2**n, dataset="synthetic", epochs=epochs, instrument_every_steps=0
        )
        for n in range(5)
    ]
    folder = write_synthetic_study(path, cells=cells, seeds=range(num_trials // 4), num_train=1024, layers=False)
    trials = folder.read_records("trials")
    last = pc.equal(trials["cell_id"], cells[-1].cell_id)
    running, trials = trials.filter(last).to_pylist()[:_RUNNING], trials.filter(pc.invert(last))
    kept = pc.SetLookupOptions(
        pa.concat_arrays([trials["trial_id"].combine_chunks(), pa.array([r["trial_id"] for r in running])])
    )
    records = {kind: folder.read_records(kind) for kind in ("epochs", "steps")}
    gathered = {kind: table.filter(pc.is_in(table["trial_id"], options=kept)) for kind, table in records.items()}
    names = []
    for row in running:
        config = TrialConfig(**{field: row[f"config.{field}"] for field in FIELDS})
        state = TrialState(
            config=config, data_fingerprint=row["data_fingerprint"], status="running", epochs_completed=1
        )
        names.append(state.trial_id)
        folder.trial(state.trial_id).mkdir(parents=True)
        for kind, table in gathered.items():
            own = pc.equal(table["trial_id"], state.trial_id)
            pq.write_table(table.filter(own), folder.trial(state.trial_id) / f"{kind}.parquet")
            gathered[kind] = table.filter(pc.invert(own))
        write_state(folder.trial(state.trial_id), state)
    for kind, table in gathered.items():
        folder.write_records(kind, table)
    folder.write_records("trials", trials)
    return folder, names


def go_on(folder: StudyFolder, names: list[str], end: threading.Event) -> None:
    """A trial ends an epoch every two seconds."""
    number = 0
    while not end.wait(2):
        path = folder.trial(names[number % len(names)]) / "trial.json"
        content = json.loads(path.read_text())
        content["epochs_completed"] += 1
        path.write_text(json.dumps(content))
        number += 1


def measure_frames(browser: Browser, move: str) -> str:
    """Median and 95th percentile of the time between frames while the wheel turns or the pointer moves."""
    browser.run(_FRAMES)
    for number in range(60):
        if move == "scroll":
            browser.call(
                "Input.dispatchMouseEvent", type="mouseWheel", x=600, y=500, deltaX=0, deltaY=60 if number < 30 else -60
            )
        else:
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=120 + 5 * number, y=400)
    browser.run("measuring = false")
    frames = sorted(browser.run("frames_ms")[2:])
    return f"{statistics.median(frames):.0f} ms, 95 % below {frames[int(0.95 * len(frames))]:.0f} ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--pages", type=int, default=10)
    options = parser.parse_args()
    chromium = find_chromium()
    assert chromium is not None, "no Chromium here"
    end = threading.Event()
    with tempfile.TemporaryDirectory() as place:
        folder, names = write_study(Path(place) / "results" / "large", options.trials, options.epochs)
        (Path(place) / "browser").mkdir()
        threading.Thread(target=go_on, args=(folder, names, end), daemon=True).start()
        with serve(folder.path.parent) as address, open_browser(chromium, Path(place) / "browser") as browser:
            server = next(p for p in psutil.Process().children() if "study.serve" in p.cmdline())
            browser.set_width(1280)
            visit(browser, address)
            wait_for(browser, "document.querySelector('#studies a')?.textContent")
            rows = {
                "study": f"{options.trials} trials, {options.epochs} epochs",
                "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            }
            for visit_number in ("first", "second"):
                started = time.monotonic()
                visit(browser, f"{address}studies/large")
                wait_for(browser, "document.querySelector('[data-part=verdict] .lead')?.textContent")
                rows[f"{visit_number} visit: verdict after"] = f"{time.monotonic() - started:.1f} s"
                browser.run("document.getElementById('curves').scrollIntoView()")
                wait_for(browser, DRAWN, lambda number: isinstance(number, int) and number >= 20)
                rows[f"{visit_number} visit: curves after"] = f"{time.monotonic() - started:.1f} s"
            rows["frames while the pointer moves"] = measure_frames(browser, "hover")
            rows["frames while scrolling"] = measure_frames(browser, "scroll")
            chart = f"{address}api/studies/large/charts/training_curves"
            whole = json.loads(urllib.request.urlopen(chart).read())
            time.sleep(40)
            news = urllib.request.urlopen(f"{chart}?since={whole['version']}").read()
            rows["a whole chart"] = f"{len(json.dumps(whole)):,} bytes"
            rows["its update after 40 s"] = f"{len(news):,} bytes, {len(json.loads(news)['rows']['mean'])} rows"
            streams = [urllib.request.urlopen(f"{address}api/studies/large/events") for _ in range(options.pages - 1)]
            before, started = sum(server.cpu_times()[:2]), time.monotonic()
            time.sleep(30)
            used = (sum(server.cpu_times()[:2]) - before) / (time.monotonic() - started)
            rows[f"server with {options.pages} pages"] = (
                f"{used:.0%} of a core, {server.memory_info().rss / 2**20:.0f} MiB"
            )
            for stream in streams:
                stream.close()
        end.set()
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
