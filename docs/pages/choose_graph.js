// How many neighbours a client of SecAggPlus has, as mpc/graph.py computes it: the least even degree at which the
// tails of some hypergeometric distributions are small enough. It needs choose_data.js, and no document.
"use strict";

window.SECAGG_GRAPH = (() => {
  const { security: SECURITY, correctness: CORRECTNESS } = window.SECAGG_DATA.graph;
  const NEGLIGIBLE = 1e-18;
  const SMALL = 32;  // below this, logarithms of factorials are added up; from here on, Stirling's series is exact

  const small = [0];
  for (let n = 1; n < SMALL; n += 1) small.push(small[n - 1] + Math.log(n));

  function logFactorial(n) {
    if (n < SMALL) return small[n];
    const rest = 1 / (12 * n) - 1 / (360 * n ** 3) + 1 / (1260 * n ** 5) - 1 / (1680 * n ** 7);
    return (n + 0.5) * Math.log(n) - n + Math.log(2 * Math.PI) / 2 + rest;
  }
  const logComb = (n, k) => logFactorial(n) - logFactorial(k) - logFactorial(n - k);

  // Whether Pr[X > x] is at most 2^-bits/among. X counts the marked items in a random sample. The library decides a
  // comparison within 1e-6 in integers. Here floats decide it, whose error is below 1e-8 up to a million clients.
  function isRare(n, marked, sample, x, bits, among) {
    const limit = -bits * Math.LN2 - Math.log(among);
    const [at, last] = [x + 1, Math.min(marked, sample)];
    if (at <= Math.floor(((sample + 1) * (marked + 1)) / (n + 2))) return false;
    const first = logComb(marked, at) + logComb(n - marked, sample - at) - logComb(n, sample);
    if (first > limit) return false;
    let [total, term] = [1, 1];
    for (let j = at; j < last && term >= NEGLIGIBLE * total; j += 1) {
      term *= ((marked - j) * (sample - j)) / ((j + 1) * (n - marked - sample + j + 1));
      total += term;
    }
    return first + Math.log(total) < limit;
  }

  // The least x with Pr[X > x] of at most 2^-bits/among.
  function mostMarked(n, marked, sample, bits, among) {
    let [low, high] = [Math.max(0, sample + marked - n), Math.min(marked, sample)];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (isRare(n, marked, sample, middle, bits, among)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
  const mostNeighbours = (n, marked, degree, bits) => mostMarked(n - 1, Math.min(marked, n - 1), degree, bits, n);

  function staysConnected(n, removed, degree, security) {
    if (degree > removed) return true;
    if (degree >= n - 1 || removed > n) return false;
    const chance = Math.log((n * (n - degree - 1)) / 2) + logComb(removed, degree) - logComb(n, degree);
    return chance < -(security + 1) * Math.LN2;
  }

  function leastConnected(n, removed, security) {
    let [low, high] = [1, Math.max(1, Math.floor((n - 1) / 2))];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (staysConnected(n, removed, 2 * middle, security)) high = middle;
      else low = middle + 1;
    }
    return staysConnected(n, removed, 2 * low, security) ? 2 * low : n;
  }

  // The degree for n clients, of whom some are corrupt and some drop out, against a server that lies once the graph is
  // fixed. It is n - 1 if no sparse graph is safe.
  function degree(n, corrupt, dropping, slack) {
    const security = SECURITY + slack;
    let least = leastConnected(n, corrupt + dropping, security);
    while (least < n - 1) {
      const threshold = 1 + Math.floor((mostNeighbours(n, corrupt, least, security + 1) + least) / 2);
      const half = least / 2;
      const left = half - mostMarked(n, dropping, half, CORRECTNESS, n);
      const missing = Math.max(
        threshold - (least - mostNeighbours(n, dropping, least, CORRECTNESS)),
        mostMarked(n, corrupt, half, security + 1, n) + 1 - left,
      );
      if (missing <= 0) return least;
      least += 2 * missing;
    }
    return n - 1;
  }

  return { degree };
})();
