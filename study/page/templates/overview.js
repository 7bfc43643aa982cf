"use strict";
// The list of studies, kept up to date by server-sent events. Every text is set as text, never as markup.
(() => {
  const body = document.querySelector("#studies tbody");
  const connection = document.getElementById("connection");
  let studies = [];

  function clock(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
    return s >= 3600 ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`;
  }

  function ago(at) {
    if (!at) return "";
    const s = Math.max(0, Date.now() / 1000 - at);
    return s < 90 ? `${Math.round(s)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago` : s < 129600 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
  }

  function cell(row, text, isText) {
    const td = row.insertCell();
    if (isText) td.className = "text";
    td.textContent = text;
    return td;
  }

  function show() {
    body.replaceChildren();
    for (const study of studies) {
      const row = body.insertRow(), progress = study.progress;
      const link = document.createElement(study.version === null ? "span" : "a"); // a cluster's study has no page here
      if (study.version !== null) link.href = `/studies/${encodeURIComponent(study.name)}`;
      link.textContent = study.name;
      const name = cell(row, "", true);
      name.append(link);
      if (study.title) name.append(document.createElement("br"), study.title);
      const chip = document.createElement("span");
      chip.className = `chip state-${study.state.split(" ")[0]}`;
      chip.textContent = study.state;
      cell(row, "", true).append(chip);
      const trials = study.trials, total = Object.values(trials).reduce((a, b) => a + b, 0);
      const done = (trials.completed || 0) + (trials.diverged || 0) + (trials.pruned || 0);
      cell(row, progress && progress.num_trials !== null ? `${progress.num_done} of ${progress.num_trials}` : `${done} of ${total}`, true);
      cell(row, progress ? clock(progress.left_s) : "");
      const faults = [];
      if (progress && progress.num_failures) faults.push(`${progress.num_failures} failed attempt${progress.num_failures === 1 ? "" : "s"}, ${progress.num_retries} tried again; last: ${progress.last_failure}`);
      if (progress && progress.num_lost_nodes) faults.push(`${progress.num_lost_nodes} nodes lost; last: ${progress.last_lost_node}`);
      if (progress && progress.reason) faults.push(progress.reason);
      if (trials.failed) faults.push(`${trials.failed} trials failed`);
      if (study.problem) faults.push(study.problem);
      cell(row, faults.join("; "), true);
      cell(row, ago(study.last_heard));
    }
    document.getElementById("none").hidden = studies.length > 0;
  }

  follow("/api/events", (found) => { studies = found; show(); }, (open, text) => { connection.textContent = open ? "up to date" : text; });
  setInterval(show, 5000);
})();
