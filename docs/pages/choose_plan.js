// What `python -m bench plan` computes, for the page choose.html. It needs choose_data.js, choose_rings.js,
// choose_graph.js and choose_noise.js, and no document.
// SECAGG_CHOOSE.plan(question) returns the protocols that fit, the best first, and those that don't, with reasons.
"use strict";

window.SECAGG_CHOOSE = (() => {
  const DATA = window.SECAGG_DATA;
  const { bitLength, ciphertexts, keyRing } = window.SECAGG_RINGS;
  const SERVERS = ["trusted", "curious", "late", "lies"];  // what the server may do, from the least to the most
  const LARGEST_MESSAGE = 2 ** 32 - 1;

  // ---- Bytes of messages. Lists and byte strings have a head, as MessagePack writes it. ----

  const text = (length) => length + (length < 256 ? 2 : length < 65536 ? 3 : 5);
  const listHead = (count) => (count < 16 ? 1 : count < 65536 ? 3 : 5);
  const bitmap = (n) => text(Math.ceil(n / 8));

  // [length, how many] of the ids c1, c2, ... of n clients, the longest first.
  function idLengths(n) {
    const lengths = [];
    for (let digits = String(n).length; digits >= 1; digits -= 1) {
      lengths.push([1 + digits, Math.min(n, 10 ** digits - 1) - 10 ** (digits - 1) + 1]);
    }
    return lengths;
  }

  // [length, how many] of the paths of a Merkle tree of n leaves, the longest first.
  function pathLengths(n) {
    const lengths = new Map();
    for (let above = 0, size = n; size > 0; above += 1) {
      const depth = Math.max(0, bitLength(size - 1) - 1);
      const left = 2 ** depth;
      const length = above + depth + (left < size ? 1 : 0);
      lengths.set(length, (lengths.get(length) ?? 0) + left);
      size -= left;
    }
    return [...lengths].sort((one, other) => other[0] - one[0]);
  }

  // Bytes of a list of the longest `count` items; `bytes` tells the bytes of an item of a length.
  function longest(lengths, count, bytes) {
    let rest = count;
    let total = 0;
    for (const [length, many] of lengths) {
      total += Math.min(many, rest) * bytes(length);
      rest -= Math.min(many, rest);
    }
    return listHead(count) + total;
  }

  const ids = (n) => longest(idLengths(n), n, (length) => 1 + length);

  // ---- Vectors ----

  // [[length, bound], ...] of what a client sends. Beside a vector without noise travels the number of its coordinates
  // that were clipped. Distributed noise needs a sum modulo 2^bits only.
  function vectorOf({ coordinates: d, bits, noise }) {
    if (noise === "distributed") return [[window.SECAGG_NOISE.padded(d), 2 ** bits - 1]];
    return noise === "central" ? [[d, 2 ** bits - 2]] : [[d, 2 ** bits - 2], [1, d]];
  }

  // Bits under masks or in shares, of each list of a vector.
  function widths(question) {
    if (question.noise === "distributed") return [question.bits];
    return vectorOf(question).map(([, bound]) => Math.max(2, bitLength(question.clients * bound)));
  }

  function masked(question) {
    const wide = widths(question);
    return vectorOf(question).reduce((sum, [length], place) => sum + Math.ceil((length * wide[place]) / 8), 0);
  }

  function pairwiseBytes(name, n, k, q) {
    const sizes = DATA.sizes;
    const sparse = name !== "SecAgg";
    const holders = k === n - 1 ? n : k;
    const dealt = text(sizes.sealed * k);
    const vouchers = sparse ? text(sizes.voucher * k) : 0;
    const lists = 3 * bitmap(n);  // a signed list of two sets, and the set of those whose shares are revealed
    const up = text(sizes.commitment * holders) + dealt + vouchers + lists + text(sizes.share * holders);
    const adverts = longest(idLengths(n), k + 1, (length) => text(sizes.advert + length));
    const paths = sparse ? bitmap(n) + longest(pathLengths(n), k + 1, (length) => text(sizes.hash * length)) : 0;
    const frozen = name === "SecAggPlus/beacon" ? bitmap(n) : 0;
    const held = bitmap(n) + text(sizes.commitment * k) + dealt;
    const asked = bitmap(n) + vouchers + 2 * bitmap(n) + text(sizes.signature * q);
    return { up, down: ids(n) + adverts + paths + frozen + held + asked };
  }

  // ---- Costs of one protocol ----

  // What grows in the bytes of a session; the constants come from the table's reference session.
  function growing(name, question, k, q) {
    const n = question.clients;
    if (name === "OneShot") {
      const ring = keyRing(n, vectorOf(question));
      if (ring === null) return null;
      const [share, rest] = DATA.protocols.OneShot.shares[ring.degree];
      return { up: rest + ring.size, down: ids(n), vector: ring.size, share };
    }
    if (DATA.protocols[name].rings) {
      const ring = ciphertexts(name, n, question.bits, vectorOf(question));
      return ring && { up: ring.size, down: ids(n) + ring.key, vector: ring.size };
    }
    const vector = masked(question);
    const more = q ? pairwiseBytes(name, n, k, q) : { up: 0, down: ids(n) };
    return { up: vector + more.up, down: more.down, vector };
  }

  const TERMS = {
    "1": () => 1,
    "q": (c) => c.q,
    "q·(n/4+300)": (c) => c.q * (c.n / 4 + 300),
    "(k+1)·d·w": (c) => (c.k + 1) * c.d * c.w,
    "(n−g+g·k·(1−g/n))·d·w": (c) => (c.n - c.g + c.g * c.k * (1 - c.g / c.n)) * c.d * c.w,
    "d": (c) => c.d,
    "n": (c) => c.n,
    "v": (c) => c.v,
    "(n−g)·v": (c) => (c.n - c.g) * c.v,
    "k": (c) => c.k,
    "k·k": (c) => c.k ** 2,
    "n·d": (c) => c.n * c.d,
    "n·k": (c) => c.n * c.k,
    "s": (c) => c.s,
    "(n−g)": (c) => c.n - c.g,
    "(n−g)·s": (c) => (c.n - c.g) * c.s,
    "sqrt(v)": (c) => Math.sqrt(c.v),
  };

  function seconds(name, role, counts, wide) {
    const lanes = DATA.rates[name.replace("/beacon", "")];
    const rates = lanes[wide ? lanes.length - 1 : 0].seconds[role];
    if (!rates) return null;
    return Object.entries(rates).reduce((sum, [symbols, rate]) => sum + rate * TERMS[symbols](counts), 0);
  }

  // Half a client goes to the even number, as in Python's round().
  function rounded(number) {
    const up = Math.round(number);
    return number % 1 === 0.5 && up % 2 === 1 ? up - 1 : up;
  }

  const isPairwise = (name) => name.startsWith("SecAgg");
  const silent = (question) => rounded((question.dropout / 100) * question.clients);
  const corrupt = (question) => Math.max(1, Math.floor((question.corruption * question.clients) / 100));

  function leastSurvivors(name, question) {
    const [n, c] = [question.clients, corrupt(question)];
    if (name === "Clear") return 1;
    return isPairwise(name) ? Math.max(Math.floor((n + c) / 2) + 1, c + 2) : c + 2;
  }

  // It leaves room for the silent clients that are expected and three standard deviations more, where it may.
  function minSurvivors(name, question) {
    const gone = silent(question);
    const room = Math.max(1, gone + Math.ceil(3 * Math.sqrt(gone)));
    return Math.max(leastSurvivors(name, question), question.clients - room);
  }

  // Neighbours of a client: all others, unless a sparse graph is safe.
  function neighbours(name, question) {
    const n = question.clients;
    if (name === "SecAgg") return n - 1;
    const slack = name === "SecAggPlus/beacon" ? DATA.graph.slack : 0;
    return window.SECAGG_GRAPH.degree(n, corrupt(question), n - minSurvivors(name, question), slack);
  }

  function costs(name, question) {
    const n = question.clients;
    const q = isPairwise(name) ? Math.floor((n + corrupt(question)) / 2) + 1 : 0;
    const k = q ? neighbours(name, question) : 0;
    const { clients, coordinates, bits, k: k0, q: q0, ...reference } = DATA.protocols[name].reference;
    const now = growing(name, question, k, q);
    const then = growing(name, { clients, coordinates, bits, noise: "none" }, k0, q0);
    if (now === null) return null;
    const d = vectorOf(question)[0][0];
    const encrypted = DATA.protocols[name].rings !== undefined || name === "OneShot";
    const v = name === "OneShot" ? now.vector : encrypted ? reference.input - then.vector + now.vector : d;
    const wide = widths(question);
    const w = isPairwise(name) && wide[0] > 32 ? 2 : 1;
    const counts = { n, g: silent(question), d, k, q, v, w, s: now.share ?? 0 };
    const [up, down] = [reference.up - then.up + now.up, reference.down - then.down + now.down];
    const wire = (8 * up) / (question.uplink * 1e6) + (8 * down) / (question.downlink * 1e6);
    const lanes = !encrypted && Math.max(...wide) > 32;
    const drawn = DATA.noiseSeconds[question.noise] ?? { client: 0, server: 0 };  // for each coordinate
    const client = seconds(name, "client", counts, lanes) + d * drawn.client;
    return {
      up, down, wire, client, waiting: client + wire,
      server: seconds(name, "server", counts, lanes) + d * drawn.server, other: seconds(name, "other", counts, lanes),
      neighbours: k, minSurvivors: minSurvivors(name, question),
    };
  }

  // ---- Differential privacy ----

  // Whoever can read a term apart from the others is kept off by that client's own noise only.
  const SHOWS_TERMS = ["Clear", "CKKS/clients"];

  function noiseNumbers(name, question) {
    const { bits, coordinates: d, clients: n } = question;
    return { bits, d, n, honest: minSurvivors(name, question) - corrupt(question) };
  }

  // The noise of the task, with its multiplier; null if the question wants none, or if none will do.
  function noiseOf(name, question) {
    const { noise, bits } = question;
    if (noise === "none" || bits > bitsOf(noise)[1]) return null;
    if (noise === "distributed" && SHOWS_TERMS.includes(name)) return null;
    return window.SECAGG_NOISE.solve(question.noise, noiseNumbers(name, question), question.epsilon, question.rounds);
  }

  function unprivate(name, question, noise) {
    if (question.noise === "none") return [];
    if (question.noise === "distributed" && SHOWS_TERMS.includes(name)) {
      return [
        (name === "Clear" ? "The server reads each update by itself" : "Any one client can read each update for the server") +
        ", so noise that is enough in the sum is not enough.",
      ];
    }
    if (noise !== null) return [];
    const { epsilon, rounds, bits, noise: kind } = question;
    const better = window.SECAGG_NOISE.nearestBits(kind, noiseNumbers(name, question), epsilon, rounds, bitsOf(kind));
    const most = kind === "central" && bits > bitsOf(kind)[1] ? `Central noise takes at most ${bitsOf(kind)[1]} bits` : "";
    return [
      (most || `With ${bits} bits no noise keeps ε within ${number(epsilon)} in ${number(rounds)} rounds`) +
      (better === null ? ": allow a larger ε, or fewer rounds." : `: take ${better} bits.`),
    ];
  }

  // The least and the most bits of a coordinate.
  const bitsOf = (noise) => [DATA.bits[0], noise === "central" ? DATA.noise.centralBits : DATA.bits.at(-1)];

  // ---- Who may collude ----

  const LYING = "A server that lies can have one client’s ciphertext opened as if it were the sum.";
  const KEY_AGREEMENT = "Its keys are agreed by X25519, so a later quantum computer could read recorded traffic.";
  const NO_DECRYPTOR = "It needs a decryptor: a party besides server and clients that never helps the server.";
  const NEEDS = {
    SecAgg: { server: 3 },
    SecAggPlus: {
      server: 2,
      beyond: "Against a server that lies before the neighbours are drawn, it needs a public beacon.",
    },
    "SecAggPlus/beacon": {
      server: 3, party: "beacon", without: "It needs a public beacon, whose values nobody knows before their time.",
    },
    AdditiveShares: {
      server: 3, party: "aggregators", postQuantum: true,
      without: "It needs two or more aggregators, of which one never helps the others.",
    },
    OneShot: {
      server: 3, party: "committee", postQuantum: true,
      without: "It needs a committee: seven members, of which at most two help the server.",
    },
    BFV: { server: 1, beyond: LYING, party: "decryptor", without: NO_DECRYPTOR, postQuantum: true },
    CKKS: { server: 1, beyond: LYING, party: "decryptor", without: NO_DECRYPTOR, postQuantum: true },
    "CKKS/clients": { server: 1, beyond: LYING, postQuantum: true },
    Paillier: { server: 1, beyond: LYING, party: "decryptor", without: NO_DECRYPTOR },
    Clear: { server: 0, beyond: "The server reads every update.", postQuantum: false },
  };

  function distrusted(name, question) {
    const needs = NEEDS[name];
    const reasons = [];
    if (SERVERS.indexOf(question.server) > needs.server) reasons.push(needs.beyond);
    if (needs.party && !question[needs.party]) reasons.push(needs.without);
    if (name === "CKKS/clients" && question.corruption > 0) {
      reasons.push("All clients hold one key, so any one client that helps the server shows it every update.");
    }
    if (question.postQuantum && !needs.postQuantum) {
      reasons.push(
        isPairwise(name) ? KEY_AGREEMENT
          : name === "Clear" ? "Nothing is encrypted." : "A later quantum computer could open recorded ciphertexts.",
      );
    }
    return reasons;
  }

  const number = (value) => value.toLocaleString("en");

  function impossible(name, question, cost) {
    const n = question.clients;
    const reasons = [];
    const stay = n - silent(question);
    if (leastSurvivors(name, question) > stay) {
      reasons.push(
        `It opens a sum of ${number(leastSurvivors(name, question))} clients or more, and ${number(stay)} are expected ` +
        "to stay: accept fewer clients that may collude, or fewer that fall silent.",
      );
    }
    if (isPairwise(name) && cost.neighbours >= 65535) {
      reasons.push(
        name === "SecAgg" ? "Every client shares a mask with every other one, which ends at 65,535 clients."
          : "No sparse graph is safe with so many colluding and silent clients; a complete one ends at 65,535 clients.",
      );
    }
    if (name.startsWith("SecAggPlus") && cost.neighbours === n - 1 && n <= 65535) {
      reasons.push("No sparse graph is safe for these clients, so all would be neighbours, as in SecAgg, which promises more.");
    }
    if (cost === null) reasons.push("No secure ring carries a sum of so many bits: take fewer bits, or fewer clients.");
    // An aggregator hands back reports that it could not open; a sum under a shared key has twice an upload's bytes.
    const times = name === "AdditiveShares" ? DATA.sizes.unopened : name === "CKKS/clients" ? 2 : 1;
    if (cost && times * (cost.up + 4096) + 64 * n > LARGEST_MESSAGE) {
      reasons.push("Its largest message would have more than 4.29 GB, where messages end: split the vector.");
    }
    return reasons;
  }

  // ---- The task to paste ----

  function expression(name, question) {
    const c = `corruption=${question.corruption / 100}`;
    switch (name) {
      case "Clear": return "secagg.Clear()";
      case "SecAggPlus/beacon": return `secagg.SecAggPlus(${c}, threat_model="malicious", beacon=beacon)`;
      case "AdditiveShares": return `secagg.AdditiveShares(aggregators=2, ${c})`;
      case "OneShot": return `secagg.OneShot(members=7, corrupt_members=2, ${c})`;
      case "CKKS/clients": return `secagg.CKKS(holder="clients", ${c})`;
      default: return `secagg.${name}(${c})`;
    }
  }

  function encoding(question, noise) {
    if (noise === null) return `secagg.FixedPoint(clip=1.0, bits=${question.bits}),  # values beyond the clip are cut`;
    const kind = question.noise === "central" ? "CentralGaussian" : "DistributedGaussian";
    const room = noise.deviations === DATA.noise.deviations[0] ? "" : `, k_stddevs=${noise.deviations}`;
    return (
      `dp.${kind}(l2_clip=1.0, noise_multiplier=${noise.multiplier}, bits=${question.bits}${room}),` +
      "  # a longer update is shortened to the clip"
    );
  }

  function snippet(name, question) {
    const noise = noiseOf(name, question);
    const beacon = name === "SecAggPlus/beacon" ? [
      "from secagg.beacon import SignedBeacon",
      "",
      "# beacon_key: 32 bytes, the Ed25519 key of the beacon’s operator, who must not help the server",
      "beacon = SignedBeacon(public_key=beacon_key, genesis=0, period=30)",
    ] : [];
    return [
      ...(noise ? ["import dp"] : []), "import secagg", ...beacon, "",
      "task = secagg.Task(",
      `    protocol=${expression(name, question)},`,
      `    layout=secagg.Layout.of(update),  # an update of ${number(question.coordinates)} coordinates`,
      `    encoding=${encoding(question, noise)}`,
      `    max_clients=${question.clients},`,
      `    min_survivors=${minSurvivors(name, question)},`,
      '    context=b"run 1",',
      ")",
      "print(task.describe())",
    ].join("\n") + "\n";
  }

  function plan(question) {
    const all = Object.keys(NEEDS).map((name) => {
      const cost = costs(name, question);
      const noise = noiseOf(name, question);
      const reasons = [
        ...distrusted(name, question), ...impossible(name, question, cost), ...unprivate(name, question, noise),
      ];
      return { name, cost, noise, reasons, expression: expression(name, question) };
    });
    const fitting = all.filter((one) => one.reasons.length === 0);
    fitting.sort((one, other) => one.cost.waiting - other.cost.waiting);
    return { fitting, refused: all.filter((one) => one.reasons.length > 0) };
  }

  return { plan, snippet, silent, number, bitsOf, NEEDS };
})();
