// The noise multiplier of an encoding with differential privacy. It needs choose_data.js, and no document.
// Grids are computed as in dp/central.py and dp/_grid.py. ε is the one that follows from Rényi divergences; the library
// also knows a second bound and takes the smaller of both, so its ε is never above this one.
"use strict";

window.SECAGG_NOISE = (() => {
  const { delta: DELTA, beta: BETA, deviations: DEVIATIONS, widest: WIDEST, narrowest: NARROWEST } = window.SECAGG_DATA.noise;
  const [RARE, LESS_RARE] = [2 ** -60, 2 ** -20];  // parts of δ that clamping may take
  const MOST_SQUARES = 2 ** 62;
  const ORDERS = [...Array(127).keys()].map((place) => place + 2).concat(256, 512, 1024);
  const [LEAST_LOG, MOST_LOG] = [-13, 13];  // of a noise multiplier, to base 2

  function mostSquares(reach, dimension) {
    const slack = Math.sqrt(-2 * Math.log(BETA));
    const root = Math.sqrt(dimension);
    return Math.min((reach + root) ** 2, reach ** 2 + dimension / 4 + slack * (reach + root / 2));
  }

  // The least power of two that is not below the number of coordinates: a rotation needs one.
  function padded(coordinates) {
    let length = 1;
    while (length < coordinates) length *= 2;
    return length;
  }

  // Both grids hold: the squares of the longest update, the variance of the noise that is sure to be in the sum, the
  // curve of Rényi divergences, and the standard deviation of a coordinate of the mean, in clips. A grid of
  // "too wide" or "too narrow" noise has no numbers.

  function central({ bits, d, n }, multiplier) {
    const top = 2 ** (bits - 1) - 1;
    if (multiplier * top > WIDEST) return "too wide";
    const squares = Math.max(1, Math.floor(mostSquares(top, d)));
    const curve = (order) => (order * squares) / (2 * (multiplier * top) ** 2);
    return { clamped: 0, curve, deviation: multiplier / n };
  }

  // `deviations` is k_stddevs: standard deviations of the sum that fit into half the modulus.
  function distributed({ bits, d, n, honest, deviations }, multiplier) {
    if (4 ** bits <= n * deviations ** 2) return "too narrow";
    const dimension = padded(d);
    const share = multiplier / Math.sqrt(honest);
    const spread = Math.sqrt(n * (n / dimension + share ** 2));
    const reach = Math.sqrt(4 ** bits - n * deviations ** 2) / (2 * deviations * spread);
    const sigma = share * reach;  // of one client, in steps
    if (sigma < NARROWEST) return "too narrow";
    const bound = mostSquares(reach, dimension);
    if (bound >= MOST_SQUARES) return "too narrow";
    if (sigma > WIDEST) return "too wide";
    const squares = Math.max(1, Math.floor(bound));
    const limit = Math.floor(Math.sqrt(squares));
    const half = 2 ** (bits - 1);
    const room = half - Math.min(limit, Math.ceil((deviations * reach) / Math.sqrt(dimension)) + 1);
    const clamped = (far) => Math.min(1, 2 * dimension * n * Math.exp(-((far / sigma) ** 2) / 2));
    if (room < 1 || clamped(room) > DELTA * LESS_RARE) return "too wide";
    let [low, high] = [0, room];  // the least place at which clamping is rare enough
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (clamped(middle) <= DELTA * RARE) high = middle;
      else low = middle + 1;
    }
    const headroom = Math.max(Math.min(low, room), half - limit);
    return {
      clamped: clamped(headroom),
      curve: distributedCurve(honest, sigma, Math.sqrt(squares), dimension),
      deviation: Math.sqrt(n * (sigma ** 2 + 0.25)) / reach / n,
    };
  }

  // τ: how far a sum of discrete Gaussians is from one. Its terms decrease, so the thousandth bounds all later ones.
  function mismatch(count, sigma) {
    const term = (place) => Math.exp(-2 * Math.PI ** 2 * sigma ** 2 * (place / (place + 1)));
    const exact = Math.min(count - 1, 1000);
    let sum = Math.max(0, count - 1 - exact) * term(exact || 1);
    for (let place = 1; place <= exact; place += 1) sum += term(place);
    return 10 * sum;
  }

  function distributedCurve(honest, sigma, l2, dimension) {
    const l1 = l2 * Math.min(Math.sqrt(dimension), l2);
    const width = Math.sqrt(honest) * sigma;
    const tau = mismatch(honest, sigma);
    return (order) => Math.min(
      (order * (l2 / width) ** 2) / 2 + tau * dimension,
      (order / 2) * ((l2 / width) ** 2 + (2 * l1 * tau) / width + tau ** 2 * dimension),
      (order / 2) * (l2 / width + Math.sqrt(dimension) * tau) ** 2,
    );
  }

  function epsilonAt(divergences, delta) {
    if (divergences.some((one) => delta ** 2 + Math.expm1(-one) > 0)) return 0;
    return Math.max(0, Math.min(...divergences.map(
      (one, place) => one + Math.log1p(-1 / ORDERS[place]) - (Math.log(delta) + Math.log(ORDERS[place])) / (ORDERS[place] - 1),
    )));
  }

  // ε at DELTA after so many rounds. Clamping moves each of the two distributions by a little, which takes a part of δ.
  function epsilon({ curve, clamped }, rounds) {
    const divergences = ORDERS.map((order) => rounds * curve(order));
    let found = epsilonAt(divergences, DELTA);
    while (clamped && Number.isFinite(found)) {
      const left = DELTA - (1 + Math.exp(Math.min(found, 700))) * rounds * clamped;
      if (left <= 0) return Infinity;
      const after = epsilonAt(divergences, left);
      if (after <= found * (1 + 1e-12)) return after * (1 + 1e-12);
      found = after;
    }
    return found;
  }

  // The least noise multiplier that keeps so many rounds within ε, rounded up to four digits; null if these bits allow
  // none. `numbers` are bits, d, n and, for distributed noise, how many honest clients are sure to be in each sum.
  // Among few clients, one client's noise needs more room than the default leaves: then `deviations` is larger.
  function solve(kind, numbers, target, rounds) {
    const key = JSON.stringify([kind, numbers, target, rounds]);
    if (!solved.has(key)) {
      if (solved.size > 5000) solved.clear();
      let found = null;
      for (const deviations of kind === "central" ? DEVIATIONS.slice(0, 1) : DEVIATIONS) {
        found ??= solveAt(kind, { ...numbers, deviations }, target, rounds);
      }
      solved.set(key, found);
    }
    return solved.get(key);
  }
  const solved = new Map();  // most protocols ask for the same numbers

  function solveAt(kind, numbers, target, rounds) {
    const grid = (multiplier) => (kind === "central" ? central : distributed)(numbers, multiplier);
    const enough = (multiplier) => {
      const found = grid(multiplier);
      return found === "too wide" || (found !== "too narrow" && epsilon(found, rounds) <= target);
    };
    let log = LEAST_LOG;
    while (!enough(2 ** log)) if ((log += 1) > MOST_LOG) return null;
    let [low, high] = [2 ** (log - 1), 2 ** log];
    while (high > low * (1 + 1e-6)) {
      const middle = Math.sqrt(low * high);
      if (enough(middle)) high = middle;
      else low = middle;
    }
    const scale = 10 ** (3 - Math.floor(Math.log10(high)));
    const multiplier = Number((Math.ceil(high * scale) / scale).toPrecision(4));
    const found = grid(multiplier);
    if (typeof found === "string" || !enough(multiplier)) return null;
    const { deviation } = found;
    return { multiplier, epsilon: epsilon(found, rounds), deviation, deviations: numbers.deviations };
  }

  // The bits nearest to the question's with which `solve` has an answer; null if there are none.
  function nearestBits(kind, numbers, target, rounds, [least, most]) {
    for (let away = 1; away <= most - least; away += 1) {
      for (const bits of [numbers.bits + away, numbers.bits - away]) {
        if (bits >= least && bits <= most && solve(kind, { ...numbers, bits }, target, rounds)) return bits;
      }
    }
    return null;
  }

  return { solve, nearestBits, padded };
})();
