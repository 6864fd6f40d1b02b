// Shows the status document of /v1/status, once a second. What parties send is only ever the text of a node: nothing
// here parses markup, and the Content-Security-Policy allows no script but this file.

const FORMAT = 1;
const STALE_SECONDS = 4;
const SHOWN_SESSIONS = 8;
const SVG = "http://www.w3.org/2000/svg";

// Building nodes. `attributes` never holds text of a party but as a label; `grow` is a share of a bar.
function make(tag, attributes = {}, ...children) {
  const node = tag === "svg" || tag === "path" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "grow") node.style.flexGrow = value;
    else if (name === "high") node.style.height = `${value}%`;
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(9)) if (child !== null && child !== "") node.append(child);
  return node;
}
const text = (tag, name, value) => {
  const node = make(tag, name ? { class: name } : {});
  node.textContent = value;
  return node;
};

// Turns `old` into `next` and keeps its nodes, so that focus, selection and opened details stay as they are.
function settle(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) return old.replaceWith(next);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && name !== "open" && name !== "style") old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== next.style.cssText) old.style.cssText = next.style.cssText;
  const [had, has] = [[...old.childNodes], [...next.childNodes]];
  had.slice(has.length).forEach((node) => node.remove());
  has.forEach((node, i) => (i < had.length ? settle(had[i], node) : old.append(node)));
}

// Words for numbers.
const count = (value) => value.toLocaleString("en");
const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
const fixed = (value) => Number(value.toPrecision(3)).toLocaleString("en");
function bytes(value) {
  const step = Math.min(4, Math.floor(Math.log10(Math.max(1, value)) / 3));
  return `${fixed(value / 1000 ** step)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}
function clock(seconds) {
  const left = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
}
function lasted(seconds) {
  if (seconds < 90) return `${fixed(seconds < 10 ? seconds : Math.round(seconds))} s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 1440)} days`;
}
function power(value) {
  if (!(value > 0)) return String(value);
  const exponent = Math.floor(Math.log10(value));
  const factor = Number((value / 10 ** exponent).toPrecision(2));
  return [factor === 1 ? "10" : `${factor} × 10`, text("sup", "", String(exponent).replace("-", "−"))];
}
const digest = (hex) => text("code", "digest", hex.match(/.{1,8}/g)?.join(" ") ?? "");
const since = (status, time) => Math.max(0, (Date.parse(status.at) - Date.parse(time)) / 1000);

// A table that screen readers keep as one when narrow screens lay its rows out as blocks.
function table(label, names, rows, kind = "") {
  const head = names.map((name) => make("th", { scope: "col", role: "columnheader" }, name));
  const body = rows.map(({ cells, ...attributes }) =>
    make("tr", { role: "row", ...attributes }, cells.map((cell, i) =>
      make(i ? "td" : "th", { role: i ? "cell" : "rowheader", scope: i ? null : "row", "data-name": names[i] }, cell))));
  return make("table", { role: "table", class: kind, "aria-label": label },
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, head)), make("tbody", { role: "rowgroup" }, body));
}
function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== "");
  return make("dl", { class: "facts" }, shown.map(([name, value]) =>
    make("div", {}, text("dt", "", name), make("dd", {}, value))));
}
const folded = (title, ...children) => make("details", {}, text("summary", "", title), ...children);

// The task: what it promises.
const AUTH = { roster: "parties sign with the roster's keys", tokens: "join tokens, no identities", open: "anybody may join" };
const THREAT = { "malicious": "server may lie", "semi-malicious": "server may lie after setup", "semi-honest": "server follows the protocol" };

function privacy(given) {
  if (!given) {
    return [text("p", "claim", "No differential privacy."),
      text("p", "quiet", "The sum is exact: nothing bounds what it says of one client.")];
  }
  const shown = (epsilon) => (epsilon === null ? "unbounded" : fixed(epsilon));
  const realised = given.realised === null ? "" : `; the last sum realised ${shown(given.realised)}`;
  return [
    make("p", { class: "claim" }, make("strong", {}, `ε = ${shown(given.spent)}`), " is spent, at δ = ", power(given.delta)),
    text("p", "quiet", `After ${plural(given.releases, "session")}. One session is guaranteed ε ≤ ${shown(given.guaranteed)}${realised}.`),
  ];
}

function task(status, about) {
  const running = status.sessions.filter((session) => session.task === about.digest);
  const past = status.history.filter((session) => session.task === about.digest);
  const plan = about.schedule;
  return make("article", { "aria-label": `task ${about.context}` },
    text("p", "eyebrow", `${about.protocol} · ${about.threat_model}: ${THREAT[about.threat_model] ?? ""}`),
    text("h2", "", about.context || "unnamed task"),
    about.warnings.map((warning) => make("p", { class: "warning" }, make("strong", {}, "Warning: "), warning)),
    make("div", { class: "claims" },
      make("section", {}, text("h3", "", "Who must collude"),
        make("p", { class: "claim" }, "To learn one client’s update would take ", text("strong", "", about.collusion), "."),
        text("p", "quiet", about.post_quantum ? "Recorded traffic stays confidential against quantum computers."
          : "Recorded traffic is not protected against quantum computers.")),
      make("section", {}, text("h3", "", "Privacy spent"), privacy(about.privacy))),
    running.length ? running.map((session) => live(about, session)) : idle(),
    past.length ? history(status, past) : null,
    folded("About this task", facts([
      ["clients", `${count(about.enrolled)} enrolled; ${count(about.min_survivors)} to ${count(about.max_clients)} in a sum`],
      ["a client sends", `${bytes(about.bytes_up)} a session, and receives ${bytes(about.bytes_down)}`],
      ["vector", plural(about.coordinates, "coordinate")],
      ["authentication", AUTH[about.auth] ?? about.auth],
      ["schedule", plan ? `${count(plan.cohort)} asked, ${count(plan.goal)} wanted, ${plan.batches} batches, ${plural(plan.attempts, "attempt")}` : ""],
      ["sessions", `${count(about.done)} done, ${count(about.failed)} failed`],
      ["trust", about.trust.map((line) => text("span", "line", line))],
      ["task digest", digest(about.digest)],
      ["roster digest", about.roster ? digest(about.roster.digest) : "no roster"],
      ["roster", about.roster ? `version ${about.roster.version}, ${plural(about.roster.parties, "party", "parties")}` : ""],
    ])));
}
function idle() {
  return make("section", { class: "session" }, text("h3", "", "No session is open"), text("p", "quiet", "The task waits."));
}

// A session: one row a round of the protocol.
function bar(parts, label) {
  return make("div", { class: "bar", role: "img", "aria-label": label },
    parts.filter(([, value]) => value > 0).map(([name, value]) => make("span", { class: name, grow: value })));
}
const MARK = { waiting: "○", open: "●", closed: "✓" };
function row(step) {
  const told = `${count(step.answered)} answered, ${count(step.pending)} pending, ${count(step.dropped)} dropped`;
  const parts = [["answered", step.answered], ["pending", step.pending], ["dropped", step.dropped]];
  const left = step.state === "open" && step.deadline !== null ? step.deadline : null;
  const share = left === null || !step.allowed ? null : Math.max(0, Math.min(1, left / step.allowed));
  const begun = step.state !== "waiting";
  return { class: step.state, cells: [
    [make("span", { class: "mark", "aria-hidden": true }, MARK[step.state] ?? ""), step.name, text("span", "spoken", ` (${step.state})`)],
    [bar(begun ? parts : [["empty", 1]], begun ? told : "not begun"),
      share === null ? null : make("div", { class: "time", "aria-hidden": true }, make("span", { grow: share }), make("span", { class: "gone", grow: 1 - share }))],
    begun ? `${count(step.answered)} of ${count(step.asked)}` : "",
    begun ? count(step.pending) : "",
    begun ? count(step.dropped) : "",
    begun ? bytes(step.bytes) : "",
    !begun ? "" : left !== null ? text("strong", "", `${clock(left)} left`) : lasted(step.seconds),
  ] };
}
function live(about, session) {
  const again = session.attempt > 1 ? `, attempt ${session.attempt}` : "";
  const title = `Session ${count(session.number)}${again}`;
  const gathering = session.state === "gathering";
  const missing = Math.max(0, session.needed - session.accepted);
  const declined = session.declined ? ` ${plural(session.declined, "client")} declined.` : "";
  return make("section", { class: `session ${session.state}` },
    make("h3", {}, title, " ", text("span", `state ${session.state}`, session.state)),
    text("p", "quiet", gathering ? `${count(session.accepted)} of the ${count(session.needed)} clients that are needed take part.${declined}`
      : `${plural(session.cohort, "client")} chosen; open for ${lasted(session.seconds)}.${session.session ? ` Id ${session.session.slice(0, 12)}.` : ""}`),
    session.reason ? text("p", "warning", session.reason) : null,
    gathering ? bar([["answered", session.accepted], ["pending", missing]], `${session.accepted} of ${session.needed}`) : null,
    session.rounds.length && !gathering ? [
      table(`${title}: rounds`, ["Round", "Progress", "Answered", "Pending", "Dropped", "Bytes", "Time"], session.rounds.map(row), "rounds"),
      make("p", { class: "legend", "aria-hidden": true }, [["answered"], ["pending"], ["dropped"], ["left", "time left"]].map(([kind, name]) =>
        make("span", { class: "key" }, make("span", { class: `swatch ${kind}` }), name ?? kind))),
    ] : null,
    session.pending.length ? folded(`${plural(session.pending.length + session.more_pending, "party", "parties")} still to answer`,
      make("ul", { class: "ids" }, session.pending.map((id) => text("li", "", id)),
        session.more_pending ? text("li", "more", `and ${count(session.more_pending)} more`) : null)) : null,
    faults(session));
}
function faults(session) {
  if (!session.faults.length) return session.state === "gathering" ? null : text("p", "quiet", "No faults.");
  const total = session.faults.reduce((sum, fault) => sum + fault.count, 0);
  return [make("h4", {}, plural(total, "fault")),
    table("faults", ["Party", "Round", "Kind", "Times", "Detail"], session.faults.map((fault) => ({
      cells: [text("code", "", fault.party), fault.round, fault.kind, count(fault.count), fault.detail],
    })), "faults"),
    session.more_faults ? text("p", "quiet", `and ${count(session.more_faults)} more`) : null];
}

// The sessions that ended.
function history(status, past) {
  const failed = past.filter((session) => session.result === "failed").length;
  const columns = past.map((session) => make("span", {
    class: session.result, high: Math.max(8, (100 * session.survivors) / Math.max(1, session.cohort)) })).reverse();
  const rows = past.map((session) => ({ class: session.result, cells: [
    `${count(session.number)}${session.attempt > 1 ? ` (${session.attempt})` : ""}`,
    [make("span", { class: "mark", "aria-hidden": true }, session.result === "done" ? "✓" : "✕"), session.result],
    session.result === "done" ? `${count(session.survivors)} of ${count(session.cohort)}` : "none",
    lasted(session.seconds), bytes(session.bytes_in), count(session.faults),
    `${lasted(since(status, session.ended))} ago`, session.reason,
  ] }));
  const names = ["Session", "Result", "In the sum", "Took", "Received", "Faults", "Ended", "Reason"];
  const title = past.length === 1 ? "The last session" : `The last ${count(past.length)} sessions`;
  return make("section", { class: "history" }, text("h3", "", title),
    past.length < 5 ? null : make("div", { class: "strip", role: "img", "aria-label": `${title}: ${past.length - failed} done, ${failed} failed; each column is the share of clients in the sum, the newest on the right` }, columns),
    table(title, names, rows.slice(0, SHOWN_SESSIONS), "past"),
    rows.length > SHOWN_SESSIONS ? folded("Older sessions", table("older sessions", names, rows.slice(SHOWN_SESSIONS), "past")) : null);
}

// The process.
const rates = [];
function traffic(status) {
  const { totals } = status;
  rates.push(totals.rate_in);
  if (rates.length > 120) rates.shift();
  const most = Math.max(1, ...rates);
  const line = rates.map((rate, i) => `${i ? "L" : "M"}${(120 - rates.length + i).toFixed(1)} ${(29 - 28 * (rate / most)).toFixed(1)}`).join(" ");
  const figure = (name, value, note) => make("div", {}, text("dt", "", name), make("dd", {}, text("strong", "", value), text("span", "quiet", note)));
  const polls = totals.most_waiting_polls === null ? "parties that wait for work" : `of at most ${count(totals.most_waiting_polls)}`;
  return make("section", { class: "traffic" }, text("h2", "", "Traffic"),
    rates.length < 10 || most === 1 ? null : make("svg", { viewBox: "0 0 120 30", preserveAspectRatio: "none", role: "img", "aria-label": `bytes received, the last two minutes: ${bytes(totals.rate_in)} a second now` },
      make("path", { d: line, class: "curve" })),
    make("dl", { class: "figures" },
      figure("In", `${bytes(totals.rate_in)}/s`, `${bytes(totals.bytes_in)} in all`),
      figure("Out", `${bytes(totals.rate_out)}/s`, `${bytes(totals.bytes_out)} in all`),
      figure("Being received", bytes(totals.ingest_used), totals.ingest_budget ? `of ${bytes(totals.ingest_budget)} allowed` : ""),
      figure("Spools", bytes(totals.spool_bytes), "on the disk"),
      figure("Waiting polls", count(totals.waiting_polls), polls)),
    status.parties.length ? folded(`${plural(status.parties.length + status.more_parties, "party", "parties")} seen`,
      table("parties", ["Party", "Role", "Last seen", ""], status.parties.map((party) => ({
        cells: [text("code", "", party.party), party.role, `${lasted(since(status, party.seen))} ago`, party.waiting ? "waits for work" : ""],
      })), "parties")) : null,
    status.service.listeners.length ? folded("Listeners", facts(status.service.listeners.map((one) =>
      [one.purpose, `${one.url}${one.tls ? "" : ", no TLS"}`]))) : null);
}

// What happens now, in a sentence; `spoken` leaves out what changes every second.
function headline(status) {
  const session = status.sessions.find((one) => one.state === "running") ?? status.sessions.find((one) => one.state === "gathering");
  if (!session) {
    const last = status.history[0];
    const end = last ? ` Session ${count(last.number)} ${last.result === "done" ? "is done" : "failed"}.` : "";
    return { shown: `No session is open.${end}`, spoken: `No session is open.${end}`, title: "idle" };
  }
  const name = `Session ${count(session.number)}`;
  if (session.state === "gathering") {
    return { shown: `${name} gathers clients: ${count(session.accepted)} of ${count(session.needed)} take part.`, spoken: `${name} gathers clients.`, title: "gathering" };
  }
  const step = session.rounds.find((one) => one.state === "open");
  if (!step) return { shown: `${name} is between two rounds.`, spoken: "", title: "running" };
  const left = step.deadline === null ? "" : `, ${clock(step.deadline)} left`;
  return {
    shown: `${name} is in ${step.name}: ${count(step.answered)} of ${count(step.asked)} have answered${left}.`,
    spoken: `${name} is in ${step.name}.`, title: `${step.answered}/${step.asked} ${step.name}`,
  };
}

const place = (id) => document.getElementById(id);
let [heard, source, retry] = [0, null, 0];

function tell(id, value) {
  if (place(id).textContent !== value) place(id).textContent = value;
}
function link(state, value) {
  place("link").dataset.state = state;
  tell("link", value);
}
function show(status) {
  if (status.format !== FORMAT) return link("bad", "this page is older than the service: reload it");
  const { service } = status;
  const now = headline(status);
  document.title = `${now.title} · secagg`;
  tell("where", `${service.url} · version ${service.version} · up ${lasted(since(status, service.started))}`);
  link(service.ready ? "good" : "bad", service.ready ? "live, ready" : "live, not ready");
  if (now.spoken) tell("spoken", `${now.spoken}${service.ready ? "" : " The service is not ready."}`);
  const next = make("main", { id: "main", tabindex: "-1" }, text("p", "headline", now.shown),
    status.pseudonyms ? text("p", "quiet", "Parties are shown under pseudonyms.") : null,
    status.tasks.map((one) => task(status, one)), traffic(status));
  settle(place("main"), next);
}
function connect() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("/v1/status/events");
  source.addEventListener("status", (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    link("bad", "no connection; trying again");
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, 5000);
  });
}
setInterval(() => {
  const silent = Math.round((Date.now() - heard) / 1000);
  if (heard && silent >= STALE_SECONDS && !document.hidden) link("bad", `no news for ${lasted(silent)}`);
}, 1000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connect();
  else source?.close();
});
connect();
