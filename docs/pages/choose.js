// The page choose.html: reads the form, keeps it in the address, and shows what choose_plan.js computes.
"use strict";

(() => {
  const { plan, snippet, silent, number, bitsOf } = window.SECAGG_CHOOSE;
  const DATA = window.SECAGG_DATA;
  const form = document.getElementById("question");
  const element = (id) => document.getElementById(id);
  const FLAGS = ["aggregators", "decryptor", "committee", "beacon", "postQuantum"];
  const NUMBERS = {  // least, most, whether only whole numbers
    clients: [DATA.clients[0], DATA.clients[1], true],
    coordinates: [1, 1e9, true],
    bits: [...bitsOf("none"), true],
    epsilon: [0.01, 1000, false],
    rounds: [1, 1e6, true],
    uplink: [0.001, 1e6, false],
    downlink: [0.001, 1e6, false],
    cores: [1, 4096, true],
  };
  const DEFAULTS = {
    server: "lies", corruption: "10", clients: "100", coordinates: "1,000,000", bits: "16", dropout: "10",
    uplink: "10", downlink: "50", cores: "1", noise: "none", epsilon: "8", rounds: "20",
  };
  const COPY = element("copy").textContent;
  let chosen = "";  // the protocol whose row the reader chose
  let taken = "";  // the protocol whose task is shown: the chosen one if it fits, else the best

  // ---- Amounts as text ----

  function scaled(value, units) {
    const [unit, least] = units.find(([, from]) => value >= from * 0.9995) ?? units[units.length - 1];
    const shown = value / least;
    return `${shown >= 100 ? number(Math.round(shown)) : Number(shown.toPrecision(3))} ${unit}`;
  }
  const bytes = (value) => scaled(value, [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["B", 1]]);
  const duration = (value) =>
    value >= 2 * 86400 ? scaled(value, [["days", 86400]])
      : value >= 7200 ? scaled(value, [["h", 3600]]) : scaled(value, [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]);

  // ---- The question: form, and fragment of the address ----

  function fill(id, values, words) {
    for (const value of values) element(id).append(new Option(words(value), value));
  }

  function read() {
    for (const name of ["epsilon", "rounds"]) element(name).disabled = form.elements.noise.value === "none";
    const entries = { ...DEFAULTS, ...Object.fromEntries(new FormData(form)) };  // a disabled field has no entry
    const question = { ...entries };
    for (const flag of FLAGS) question[flag] = flag in entries;
    for (const name of ["corruption", "dropout"]) question[name] = Number(entries[name]);
    let right = true;
    for (const [name, [least, most, whole]] of Object.entries(NUMBERS)) {
      const value = Number(entries[name].replaceAll(/[,_\s]/g, ""));
      const good = entries[name].trim() !== "" && value >= least && value <= most && (!whole || Number.isInteger(value));
      question[name] = value;
      element(name).setAttribute("aria-invalid", String(!good));
      element(`${name}-wrong`).textContent = good
        ? "" : `Expected a ${whole ? "whole " : ""}number from ${number(least)} to ${number(most)}.`;
      right = right && good;
    }
    return right ? question : null;
  }

  function restore() {
    const stated = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(DEFAULTS)) {
      const control = form.elements[name];
      control.value = DEFAULTS[name];
      if (stated.get(name)) control.value = stated.get(name);
      if (!control.value) control.value = DEFAULTS[name];  // the address names a choice that this page does not have
    }
    for (const flag of FLAGS) form.elements[flag].checked = stated.has(flag);
    chosen = stated.get("protocol") ?? "";
  }

  function keep() {
    const stated = new URLSearchParams(new FormData(form));
    for (const [name, value] of Object.entries(DEFAULTS)) if (stated.get(name) === value) stated.delete(name);
    if (chosen) stated.set("protocol", chosen);
    const fragment = stated.toString().replaceAll(/=on(?=&|$)/g, "");
    history.replaceState(null, "", `#${fragment}`);
  }

  // ---- The answer ----

  function cell(row, what, content) {
    const made = row.insertCell();
    made.dataset.what = what;
    made.textContent = content;
  }

  function showTable(fitting, question) {
    const body = element("table").tBodies[0];
    body.replaceChildren();
    for (const [place, { name, cost, expression }] of fitting.entries()) {
      const row = body.insertRow();
      row.className = name === taken ? "taken" : "";
      row.dataset.protocol = name;
      const head = document.createElement("th");
      head.scope = "row";
      const label = document.createElement("label");
      const choice = Object.assign(document.createElement("input"), {
        type: "radio", name: "protocol", value: name, checked: name === taken,
      });
      const shown = document.createElement("span");
      shown.textContent = name;
      shown.title = expression;
      label.append(choice, shown);
      head.append(label);
      if (place === 0) {
        label.append(Object.assign(document.createElement("span"), { className: "best", textContent: "best" }));
      }
      row.append(head);
      cell(row, "client sends", bytes(cost.up));
      cell(row, "client receives", bytes(cost.down));
      cell(row, "client computes", duration(cost.client));
      cell(row, "and transfers", duration(cost.wire));
      cell(row, "server computes", duration(cost.server / question.cores));
      cell(row, "other party computes", cost.other === null ? "–" : duration(cost.other));
    }
    element("table").hidden = fitting.length === 0;
  }

  // What the task's noise means, in sentences.
  function privacy({ noise, rounds }, { multiplier, epsilon, deviation }) {
    const within = `Its ε is at most ${Number(epsilon.toPrecision(4))} after ${number(rounds)} round${rounds > 1 ? "s" : ""}.`;
    const error = `and that of the mean ${Number(deviation.toPrecision(3))}, in each coordinate.`;
    const who = noise === "central"
      ? "The server adds it, and could leave it out: it protects from those who see only what the server publishes."
      : "This holds even if only those clients add theirs that are sure to stay and help nobody.";
    return ` The noise of the sum has a standard deviation of ${multiplier} clips, ${error} ${within} ${who}`;
  }

  function showTask(question, { cost, noise } = {}) {
    element("task").hidden = !cost;
    if (!cost) return;
    const code = snippet(taken, question);
    if (code !== element("snippet").textContent) element("copy").textContent = COPY;
    element("snippet").textContent = code;
    const least = cost.minSurvivors;
    element("room").textContent =
      `${number(silent(question))} of ${number(question.clients)} clients are expected to fall silent. The sum of at least ` +
      `${number(least)} is opened, so ${number(question.clients - least)} may; with more, the session ends and opens ` +
      `nothing.${noise ? privacy(question, noise) : ""}`;
  }

  function verdict(fitting, question) {
    if (fitting.length === 0) {
      return "No protocol fits. The list below says what each of them would need.";
    }
    const [best, next] = fitting;
    const then = next ? ` The next best is ${next.name}, with ${duration(next.cost.waiting)}.` : "";
    return (
      `Take ${best.name}. A client is busy for ${duration(best.cost.waiting)}, of which ${duration(best.cost.wire)} are ` +
      `transfer, and the server for ${duration(best.cost.server / question.cores)}.${then}`
    );
  }

  function show() {
    const question = read();
    if (question === null) {
      element("verdict").textContent = "Correct the marked numbers first.";
      element("table").hidden = element("task").hidden = true;
      element("refused").replaceChildren();
      return;
    }
    const { fitting, refused } = plan(question);
    const kept = fitting.find((one) => one.name === chosen) ?? fitting[0];
    taken = kept?.name ?? "";
    element("verdict").textContent = verdict(fitting, question);
    showTable(fitting, question);
    showTask(question, kept);
    element("refused").replaceChildren(
      ...refused.flatMap(({ name, reasons }) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: reasons.join(" ") }),
      ]),
    );
    keep();
  }

  async function copy() {
    const text = element("snippet").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // pages of file:// may not write to the clipboard: select the text for the reader
      getSelection().selectAllChildren(element("snippet"));
      element("copy").textContent = "Selected: copy it with the keyboard";
      return;
    }
    element("copy").textContent = "Copied";
  }

  function showMeasured() {
    const { machine, date, command } = DATA.measured;
    const busy = machine.load > machine.cores ? " Other programs ran beside it, so they are rough." : "";
    element("measured").textContent =
      `The rates behind the seconds were measured on ${date} on ${machine.cores} cores of ${machine.processor}, ` +
      `${machine.instructions.includes("avx512f") ? "with" : "without"} AVX-512, by ${command}.${busy}`;
  }

  fill("corruption", DATA.corruption, (percent) => (percent === 0 ? "none" : `${percent} %`));
  fill("dropout", DATA.dropouts, (percent) => (percent === 0 ? "none" : `${percent} %`));
  restore();
  showMeasured();
  show();
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  element("table").addEventListener("change", (event) => {
    chosen = event.target.value;
    show();
    element("table").querySelector("input:checked").focus();  // its row was made anew
  });
  element("copy").addEventListener("click", copy);
  addEventListener("hashchange", () => { restore(); show(); });
})();
