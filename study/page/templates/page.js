"use strict";
// One study, live. Parts are fetched when they are seen, and again when the study has changed; charts get only new rows.
// What the page shows (cells, axis, panels, zoom, pins, choices) is in its address.
(() => {
  const study = document.body.dataset.study;
  const base = `/studies/${encodeURIComponent(study)}`, api = `/api${base}`;
  const byId = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- the state in the address
  const query = new URLSearchParams(location.search);
  const list = (key) => new Set((query.get(key) || "").split(",").filter((item) => item));
  const view = { hidden: list("hide"), off: list("off"), axis: query.get("x") || "", bands: query.get("bands") !== "0", pins: list("pin"),
    zoom: readZoom(query.get("zoom")) };

  function readZoom(text) { // of each panel the ends of both axes; anything else is passed over
    try {
      return Object.fromEntries(Object.entries(JSON.parse(text) || {}).filter(([, ends]) => Array.isArray(ends) && ends.length === 4 && ends.every(Number.isFinite)));
    } catch {
      return {};
    }
  }

  function keep() {
    const put = (key, value) => (value ? query.set(key, value) : query.delete(key));
    put("hide", [...view.hidden].join(","));
    put("off", [...view.off].join(","));
    put("x", view.axis);
    put("bands", view.bands ? "" : "0");
    put("pin", [...view.pins].join(","));
    put("zoom", Object.keys(view.zoom).length ? JSON.stringify(view.zoom) : "");
    history.replaceState(null, "", `${location.pathname}?${query}${location.hash}`);
  }

  // ---- parts: what is seen and not up to date is fetched
  let version = 0, working = 0;
  const parts = new Map(); // element -> { seen, version, load }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) parts.get(entry.target).seen = entry.isIntersecting;
    work();
  }, { rootMargin: "200px" });

  function addPart(element, load) {
    parts.set(element, { seen: false, version: -1, load });
    observer.observe(element);
  }

  function outdate(element) {
    parts.get(element).version = -1;
    work();
  }

  document.addEventListener("visibilitychange", work);

  const far = (element) => Math.abs(element.getBoundingClientRect().top - innerHeight / 3);

  async function work() {
    if (working >= 3 || !version || document.hidden) return;
    const waiting = [...parts].filter(([, part]) => part.seen && part.version < version && !part.loading);
    if (!waiting.length) return;
    const [element, part] = waiting.reduce((a, b) => (far(b[0]) < far(a[0]) ? b : a)); // what the reader looks at comes first
    working += 1;
    part.loading = true;
    part.version = version;
    work();
    try {
      await part.load(element);
      element.classList.remove("old");
    } catch (error) { // what was there stands; the next change of the study tries again
      element.classList.add("old");
      part.failed = true;
      console.info(String(error));
      if (!element.querySelector(":not(.left-out)")) showLeftOut(element, `Cannot be shown now: ${error.message.trim()}`);
    }
    part.loading = false;
    working -= 1;
    work();
  }

  function showLeftOut(element, text) {
    const why = document.createElement("p");
    why.className = "left-out";
    why.textContent = text;
    element.replaceChildren(why);
  }

  async function get(url) {
    const answer = await fetch(url, { cache: "no-cache" });
    if (!answer.ok && answer.status !== 404) throw new Error(await answer.text());
    return answer;
  }

  async function loadPart(element) {
    const own = new URLSearchParams();
    for (const key of ["metric", "status", "page"]) if (query.get(key)) own.set(key, query.get(key));
    const choosable = ["map", "trials"].includes(element.dataset.part);
    const answer = await get(`${base}/blocks/${encodeURIComponent(element.dataset.part)}${choosable ? `?${own}` : ""}`);
    const etag = answer.headers.get("ETag");
    if (etag && etag === element.dataset.etag) return;
    const text = await answer.text();
    if (answer.ok) element.innerHTML = text; // made by the server's templates, which escape every text of a study
    else element.textContent = text;
    element.dataset.etag = etag || "";
    makeSortable(element);
  }

  document.addEventListener("change", (event) => {
    const key = event.target.dataset.query;
    if (key) choose(event.target.closest(".part"), key, event.target.value);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.query) choose(button.closest(".part"), button.dataset.query, button.dataset.value);
    if (button.dataset.trial) showTrial(button.dataset.trial);
    if (button.dataset.action) ask(button.dataset.action);
  });

  function choose(element, key, value) {
    if (value && value !== "0") query.set(key, value);
    else query.delete(key);
    if (key === "status") query.delete("page");
    keep();
    outdate(element);
  }

  async function ask(action) {
    const question = action === "stop" ? "Stop the study? Its trials save first."
      : `Let the study go on by its own command?\n\n${(await (await get(api)).json()).goes_on_by}`;
    if (!confirm(question)) return;
    byId("asked").textContent = await (await fetch(`${api}/${action}`, { method: "POST" })).text();
  }

  function showTrial(trial) {
    const element = byId("trial");
    element.dataset.part = `trial-${trial}`;
    query.set("trial", trial);
    keep();
    if (parts.has(element)) outdate(element);
    else addPart(element, loadPart);
  }

  // ---- charts
  const charts = new Map(); // element -> { data, panels }

  async function loadChart(element) {
    const name = element.dataset.chart, chart = charts.get(element) || { version: 0, rows: new Map(), panels: new Map() };
    const answer = await get(`${api}/charts/${encodeURIComponent(name)}?since=${chart.version}`);
    const news = answer.ok ? await answer.json() : { left_out: (await answer.text()).trim() };
    if (news.left_out) { // as before the first epoch
      showLeftOut(element, `Left out: ${news.left_out}.`);
      charts.delete(element);
      return;
    }
    if (news.whole) {
      chart.rows = new Map();
      chart.about = { title: news.title, panels: news.panels, axes: news.axes, lines: news.lines };
      element.style.setProperty("--columns", Math.min(news.columns, news.panels.length));
    }
    chart.version = news.version;
    const names = Object.keys(news.rows);
    const changed = new Set();
    news.rows.panel.forEach((panel, row) => {
      const values = Object.fromEntries(names.map((column) => [column, news.rows[column][row]]));
      chart.rows.set(`${panel}|${values.cell}|${values.epoch}`, values);
      changed.add(panel);
    });
    if (!charts.has(element)) charts.set(element, chart);
    if (news.whole) layOut(element, chart);
    for (const [panel, place] of chart.panels) if (news.whole || changed.has(panel)) place.dirty = true;
    drawSeen();
  }

  function layOut(element, chart) {
    element.replaceChildren();
    const switches = document.createElement("div"), many = document.createElement("details"), title = document.createElement("summary");
    switches.className = "switches";
    title.textContent = `Choose from ${chart.about.panels.length} panels`;
    many.append(title, switches);
    if (chart.about.panels.length > 1) element.append(chart.about.panels.length > 6 ? many : switches);
    for (const panel of chart.about.panels) {
      const id = `${element.dataset.chart}.${panel.name.replaceAll(" ", ".")}`;
      const place = chart.panels.get(panel.name) || { div: document.createElement("div"), dirty: true, seen: false };
      Object.assign(place, { id, panel, chart });
      place.div.className = "panel";
      place.div.id = `panel-${id}`;
      place.div.hidden = view.off.has(id);
      element.append(place.div);
      if (!chart.panels.has(panel.name)) {
        chart.panels.set(panel.name, place);
        panelOf.set(place.div, place);
        panelObserver.observe(place.div);
      }
      switches.append(toggle(panel.title, !view.off.has(id), (on) => {
        on ? view.off.delete(id) : view.off.add(id);
        place.div.hidden = !on;
        keep();
      }));
    }
    showControls();
  }

  function toggle(text, on, change) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(text);
    button.setAttribute("aria-pressed", String(on));
    button.addEventListener("click", () => {
      const now = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(now));
      change(now);
    });
    return button;
  }

  const panelOf = new Map();
  const panelObserver = new IntersectionObserver((entries) => {
    for (const entry of entries) panelOf.get(entry.target).seen = entry.isIntersecting;
    drawSeen();
  }, { rootMargin: "100px" });

  let drawing = false;
  byId("plotly").addEventListener("load", drawSeen); // the verdict does not wait for it
  function drawSeen() { // one panel a frame: scrolling stays smooth
    if (drawing || !window.Plotly) return;
    const next = [...panelOf.values()].find((place) => place.seen && place.dirty && !place.div.hidden);
    if (!next) return;
    drawing = true;
    requestAnimationFrame(() => {
      next.dirty = false;
      try {
        draw(next);
      } finally { // the other panels are drawn in any case
        drawing = false;
        drawSeen();
      }
    });
  }

  function redrawAll() {
    for (const place of panelOf.values()) place.dirty = true;
    drawSeen();
  }

  function linesOf(place) {
    const about = place.chart.about, axis = Object.hasOwn(about.axes, view.axis) ? view.axis : Object.keys(about.axes)[0];
    const factor = place.panel.percent ? 100 : 1, found = [];
    for (const line of about.lines) {
      if (view.hidden.has(String(line.cell))) continue;
      const rows = [...place.chart.rows.values()].filter((row) => row.panel === place.panel.name && row.cell === line.cell && row[axis] !== null && (!place.panel.log || row.mean > 0));
      rows.sort((a, b) => a.epoch - b.epoch);
      if (rows.length) found.push({ line, axis, x: rows.map((r) => r[axis]), y: rows.map((r) => factor * r.mean), rows, factor });
    }
    return found;
  }

  function draw(place) {
    const css = getComputedStyle(document.documentElement), color = (name) => css.getPropertyValue(name).trim();
    const traces = [], annotations = [], panel = place.panel, short = (v) => Number(v.toPrecision(4)).toString();
    let axis = "";
    for (const one of linesOf(place)) {
      axis = one.axis;
      const own = dark.matches ? one.line.dark : one.line.color;
      const sds = one.rows.map((row) => row.sd === null ? 0 : one.factor * row.sd);
      if (view.bands && sds.some((sd) => sd > 0)) {
        const low = one.y.map((y, i) => (panel.log ? Math.max(y - sds[i], y / 10) : y - sds[i]));
        const high = one.y.map((y, i) => y + sds[i]);
        traces.push({ x: [...one.x, ...[...one.x].reverse()], y: [...high, ...low.reverse()], fill: "toself", mode: "lines", line: { width: 0 }, fillcolor: own + "30", hoverinfo: "skip" });
      }
      traces.push({
        x: one.x, y: one.y, mode: one.x.length < 2 ? "markers" : "lines", line: { color: own, width: 2, dash: one.line.dash },
        marker: { color: own, symbol: one.line.marker }, name: escape(one.line.label), meta: one.line.cell,
        customdata: one.rows.map((row, i) => [row.num > 1 && row.sd !== null ? ` ± ${Number(sds[i].toPrecision(2))}` : "", row.num, row.epoch]),
        hovertemplate: `${escape(one.line.label)}: %{y:.4~g}%{customdata[0]}, n = %{customdata[1]}<extra></extra>`,
      });
      one.rows.forEach((row, i) => {
        if (view.pins.has(`${place.id}:${row.cell}:${row.epoch}`)) {
          annotations.push({ x: one.x[i], y: panel.log ? Math.log10(one.y[i]) : one.y[i], text: `${escape(one.line.label)}<br>${short(one.y[i])}${row.num > 1 && row.sd !== null ? ` ± ${Number(sds[i].toPrecision(2))}` : ""}`, arrowcolor: own, bgcolor: color("--panel"), bordercolor: own, font: { size: 11 } });
        }
      });
    }
    const zoom = Object.hasOwn(view.zoom, place.id) && view.zoom[place.id], range = (from) => (zoom ? { range: zoom.slice(from, from + 2), autorange: false } : { autorange: true });
    const lines = { gridcolor: color("--line"), zeroline: false, linecolor: color("--muted"), automargin: true };
    Plotly.react(place.div, traces, {
      title: { text: escape(panel.title), x: 0.01, xanchor: "left", font: { size: 13 } }, margin: { l: 46, r: 8, t: 30, b: 36 }, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: color("--ink"), size: 11, family: "system-ui, sans-serif" },
      hovermode: "x", hoverdistance: -1, hoverlabel: { namelength: -1 }, dragmode: "zoom", annotations,
      xaxis: { ...lines, ...range(0), ...(axis === "epoch" && Math.max(...traces.flatMap((trace) => trace.x)) <= 12 ? { dtick: 1 } : {}), title: { text: escape(place.chart.about.axes[axis] || ""), font: { size: 11 } } },
      yaxis: { ...lines, ...range(2), ...(panel.log ? logTicks(traces) : { type: "linear" }) },
    }, { displayModeBar: false, responsive: true, doubleClick: "reset" });
    if (!place.listens) {
      place.listens = true;
      place.div.on("plotly_click", (event) => {
        const point = event.points.reduce((near, p) => (p.data.customdata && (!near || p.y !== undefined) ? near || p : near), null);
        if (!point) return;
        const pin = `${place.id}:${point.data.meta}:${point.customdata[2]}`;
        view.pins.delete(pin) || view.pins.add(pin);
        keep();
        showControls();
        draw(place);
      });
      place.div.on("plotly_relayout", (change) => {
        if (change["xaxis.range[0]"] !== undefined || change["yaxis.range[0]"] !== undefined) {
          const layout = place.div.layout;
          view.zoom[place.id] = [...layout.xaxis.range, ...layout.yaxis.range].map((v) => Number(v.toPrecision(6)));
        } else if (change["xaxis.autorange"] || change["yaxis.autorange"]) delete view.zoom[place.id];
        else return;
        keep();
      });
    }
  }

  // Ticks at 1, 2 and 5 of each decade, at whole decades only where there are more than two; as on paper.
  function logTicks(traces) {
    const logs = traces.flatMap((trace) => trace.y.map(Math.log10)), low = Math.floor(Math.min(...logs)), high = Math.ceil(Math.max(...logs));
    const raised = (n) => String(n).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻"), tickvals = [], ticktext = [];
    for (let power = low; power <= high; power += 1) {
      for (const digit of high - low > 2 ? [1] : [1, 2, 5]) {
        tickvals.push(digit * 10 ** power);
        ticktext.push(power >= 0 && power < 4 ? String(digit * 10 ** power) : `${digit === 1 ? "" : `${digit}·`}10${raised(power)}`);
      }
    }
    return { type: "log", tickvals, ticktext };
  }

  // Plotly reads its texts as a little HTML: nothing of a study may count as such.
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "% {");

  function showControls() {
    const lines = new Map(), axes = new Map();
    for (const chart of charts.values()) {
      for (const line of chart.about.lines) lines.set(line.cell, line);
      for (const [name, title] of Object.entries(chart.about.axes)) axes.set(name, title);
    }
    byId("cells").replaceChildren(...[...lines.values()].sort((a, b) => a.cell - b.cell).map((line) => {
      const button = toggle("", !view.hidden.has(String(line.cell)), (on) => {
        on ? view.hidden.delete(String(line.cell)) : view.hidden.add(String(line.cell));
        keep();
        redrawAll();
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = dark.matches ? line.dark : line.color;
      button.append(swatch, line.label);
      return button;
    }));
    const select = byId("axis");
    if (select.options.length !== axes.size) {
      select.replaceChildren(...[...axes].map(([name, title]) => new Option(title, name, false, name === view.axis)));
    }
    byId("unpin").hidden = !view.pins.size;
    byId("controls").hidden = !lines.size;
  }

  byId("axis").addEventListener("change", (event) => {
    view.axis = event.target.value;
    view.zoom = {};
    keep();
    redrawAll();
  });
  byId("bands").checked = view.bands;
  byId("bands").addEventListener("change", (event) => {
    view.bands = event.target.checked;
    keep();
    redrawAll();
  });
  byId("unpin").addEventListener("click", () => {
    view.pins.clear();
    keep();
    showControls();
    redrawAll();
  });
  dark.addEventListener("change", () => {
    showControls();
    redrawAll();
  });

  // ---- what there is to show grows with the study: places that are new are taken over from the page as the server makes it now
  const placesOf = (root) => [...root.querySelectorAll("[data-part]:not(#trial), [data-chart]")];
  const keyOf = (place) => place.dataset.part || place.dataset.chart;
  let plan = "", planned = 0, plannedAt = Date.now();

  async function followPlan() {
    if (planned === version || Date.now() - plannedAt < 20_000) return;
    plannedAt = Date.now();
    planned = version;
    const answer = await get(base);
    const etag = answer.headers.get("ETag");
    if (!answer.ok || etag === plan) return;
    plan = etag;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const known = new Map(placesOf(document).map((place) => [keyOf(place), place]));
    let before = byId("sorted");
    for (const made of [...fresh.querySelectorAll("main > section")]) {
      const old = byId(made.id);
      if (!old || String(placesOf(old).map(keyOf)) !== String(placesOf(made).map(keyOf))) {
        const section = document.adoptNode(made);
        for (const place of placesOf(section)) {
          if (known.has(keyOf(place))) place.replaceWith(known.get(keyOf(place)));
          else addPart(place, place.dataset.chart ? loadChart : loadPart);
        }
        if (old) old.replaceWith(section);
        else before.after(section);
      }
      before = byId(made.id);
    }
    document.querySelector("nav ul").replaceWith(document.adoptNode(fresh.querySelector("nav ul")));
  }

  // ---- events
  let last = null;
  function show(found) {
    last = found;
    byId("connection").textContent = "";
    showState();
    version = last.version;
    work();
    followPlan().catch((error) => console.info(String(error)));
  }

  function tell(open, text) {
    byId("connection").textContent = text;
    for (const part of open ? parts.values() : []) {
      if (part.failed) part.version = -1;
      part.failed = false;
    }
  }
  setInterval(() => {
    if (!last || document.hidden) return;
    showState();
    followPlan().catch((error) => console.info(String(error)));
  }, 10_000);

  function showState() {
    const progress = last.progress, box = byId("state"), line = document.createElement("p"), chip = document.createElement("span");
    chip.className = `chip state-${last.state.split(" ")[0]}`;
    chip.textContent = last.state;
    line.append(chip, " ");
    const words = Object.entries(last.trials).map(([status, number]) => `${number} ${status}`);
    if (progress && progress.left_s !== null) words.push(`${clock(progress.left_s)} left`);
    const ended = ["done", "some failed", "interrupted", "ended with an error"].includes(last.state);
    if (last.last_heard) words.push(`${ended ? "ended" : "last heard of"} ${ago(last.last_heard)}`);
    const rests = ended || ["lost", "unfinished"].includes(last.state);
    for (const button of document.querySelectorAll("[data-action]")) button.hidden = (button.dataset.action === "stop") === rests;
    line.append(words.join(", "));
    const rows = [line];
    if (progress && progress.num_trials && last.state !== "done") {
      const bar = document.createElement("progress");
      bar.max = progress.num_trials;
      bar.value = progress.num_done;
      bar.setAttribute("aria-label", "trials done");
      line.append(" ", bar);
    }
    for (const text of [last.problem, progress && progress.reason, progress && progress.num_failures ? `${progress.num_failures} failed attempt${progress.num_failures === 1 ? "" : "s"}, ${progress.num_retries} tried again; last: ${progress.last_failure}` : ""]) {
      if (!text) continue;
      const warning = document.createElement("p");
      warning.className = "banner";
      warning.textContent = text;
      rows.push(warning);
    }
    box.replaceChildren(...rows);
    document.querySelector("#verdict h2").textContent = last.state === "done" ? "Verdict" : "Verdict so far";
  }

  function ago(at) {
    const s = Math.max(0, Date.now() / 1000 - at);
    return s < 90 ? `${Math.round(s)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago` : s < 129600 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
  }

  function clock(seconds) {
    const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
    return s >= 86400 ? `${Math.floor(s / 86400)} days` : s >= 3600 ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`;
  }

  for (const element of document.querySelectorAll(".part[data-part]")) addPart(element, loadPart);
  for (const element of document.querySelectorAll(".chart")) addPart(element, loadChart);
  if (query.get("trial")) showTrial(query.get("trial"));
  follow(`${api}/events`, show, tell);
})();
