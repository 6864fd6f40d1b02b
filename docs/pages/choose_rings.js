// The rings of ciphertexts, and of OneShot's one-time keys. It needs choose_data.js, and no document.
// A vector is [[length, bound], ...]: so many integers from 0 to the bound, of which the first list is the longest.
"use strict";

window.SECAGG_RINGS = (() => {
  const DATA = window.SECAGG_DATA;
  const LANES = 8;  // polynomials that OneShot packs side by side

  function bitLength(number) {
    let bits = 0;
    for (let rest = number; rest >= 1; rest = Math.floor(rest / 2)) bits += 1;
    return bits;
  }

  // The last row of a table that begins at or below n.
  function rowAt(rows, n) {
    let found = rows[0];
    for (const row of rows) if (row[0] <= n) found = row;
    return found;
  }

  // ---- BFV, CKKS and Paillier ----

  // Slots of a vector. A term above the bound of the longest list is written in digits.
  function digits(vector) {
    const base = vector[0][1] + 1;
    return vector.reduce((slots, [length, bound]) => {
      let places = 1;
      for (let reach = base - 1; reach < bound; reach = reach * base + base - 1) places += 1;
      return slots + length * places;
    }, 0);
  }

  // [slots, bytes of a ciphertext, bytes of the head, bytes of the proposal's key] for n clients; null if none is safe.
  function ring(name, n, bits, bound) {
    const { modulus, kinds, rows } = DATA.protocols[name].rings;
    if (modulus) {
      const [, size, head, key] = kinds[0];
      return [Math.floor((modulus - 1) / bitLength(n * bound)), size, head, key];
    }
    const kind = rowAt(rows[bits - DATA.bits[0]][bound - (2 ** bits - 2)], n)[1];
    return kind === null ? null : kinds[kind];
  }

  function ciphertexts(name, n, bits, vector) {
    const found = ring(name, n, bits, vector[0][1]);
    if (found === null) return null;
    const [slots, each, head, key] = found;
    return { size: head + each * Math.ceil(digits(vector) / slots), key };
  }

  // ---- OneShot: the ring with the fewest bytes, as he/kahe_params.py chooses it ----

  const moduli = [];  // every ring: its degree, the bits of its primes, their product and its logarithm
  for (const [text, widths] of Object.entries(DATA.protocols.OneShot.primes)) {
    const degree = Number(text);
    for (let bits = 1; bits <= DATA.protocols.OneShot.limits[text]; bits += 1) {
      const count = Math.ceil(bits / DATA.protocols.OneShot.longest);
      const [short, longer] = [Math.floor(bits / count), bits % count];
      const places = (width, many) => (widths[width] ?? []).slice(0, many).map((place) => [width, place]);
      const chosen = [...places(short + 1, longer), ...places(short, count - longer)];
      if (chosen.length < count) continue;
      const primes = chosen.map(([width, place]) => 2 ** width - 2 * degree * place + 1);
      moduli.push({
        degree,
        bits: chosen.map(([width]) => width),
        q: primes.reduce((product, prime) => product * BigInt(prime), 1n),
        log: primes.reduce((sum, prime) => sum + Math.log2(prime), 0),
      });
    }
  }

  // How many sums of n terms a coefficient holds beside the error.
  function fields(q, shift, error, n, bound) {
    const largest = BigInt(n) * BigInt(bound);
    const width = BigInt(bitLength(n * bound));
    let [count, step] = [0, largest << BigInt(shift)];
    for (let taken = (1n << BigInt(shift - 1)) + BigInt(error) + step; taken < q; taken += step) {
      count += 1;
      step <<= width;
    }
    return count;
  }

  function keyRing(n, vector) {
    const { each, demand, variance, key } = DATA.protocols.OneShot;
    const error = Math.min(key * n, Math.floor(Math.sqrt(2 * variance * n * demand)));
    const shift = bitLength(error) + 1;
    let best = null;
    for (const { degree, bits, q, log } of moduli) {
      const held = vector.map(([length, bound]) => Math.min(fields(q, shift, error, n, bound), length));
      if (held.includes(0)) continue;
      const filled = vector.reduce((sum, [length], place) => sum + Math.ceil(length / held[place]), 0);
      const groups = Math.ceil((filled + Math.ceil(64 / (log - shift))) / LANES);
      const [full, rest] = [Math.floor(groups / degree), groups % degree];
      const words = (rows, wide) => Math.ceil((rows * wide) / 64);
      const size = bits.reduce((sum, wide) => sum + 8 * LANES * (full * words(degree, wide) + words(rest, wide)), 0);
      if (best === null || size + each * degree < best.size + each * best.degree) best = { degree, size };
    }
    return best;
  }

  return { bitLength, ciphertexts, keyRing };
})();
