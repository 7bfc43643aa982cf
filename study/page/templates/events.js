"use strict";
// Server-sent events for a page as long as it is shown: a browser opens six connections to a server, and hidden pages leave theirs to others.
// A quiet connection is made anew, e.g. after the laptop slept.
function follow(url, show, tell) {
  let events = null, heard = 0;

  function close() {
    if (events) events.close();
    events = null;
  }

  function connect() {
    close();
    if (document.hidden) return;
    heard = Date.now();
    const own = events = new EventSource(url);
    own.onopen = () => {
      heard = Date.now();
      tell(true, "");
    };
    own.addEventListener("alive", () => { heard = Date.now(); });
    own.onmessage = (event) => {
      heard = Date.now();
      show(JSON.parse(event.data));
    };
    own.onerror = async () => {
      const answer = own.readyState === EventSource.CLOSED ? await fetch(location.pathname, { cache: "no-store" }).catch(() => null) : null;
      const refused = answer && !answer.ok ? (await answer.text()).trim() : ""; // by the server, which says why
      if (own === events) tell(false, refused || "Not connected; tries again.");
    };
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : connect()));
  setInterval(() => {
    if (!events || events.readyState === EventSource.CLOSED || Date.now() - heard > 90_000) connect();
  }, 10_000);
  connect();
}
