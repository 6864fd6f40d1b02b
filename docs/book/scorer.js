// How the search ranks. Sphinx counts each page that has a word as much as the page about it, and then orders by name.
// Here a page counts by its headings: by how much of a heading the question is. A question that is written like a name
// finds names first, and any other question pages first.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: {},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  // Pages that have nearly every word. They come after the pages about it.
  collections: /^(project\/changelog|attacks|gallery\/|claims|benchmarks|glossary|source\/)/,

  words(text) {
    const stemmer = new Stemmer();
    const plain = text.toLowerCase().replace(/['’]s\b/g, "").split(/[^\p{L}\p{N}_]+/u);
    return plain.filter((word) => word && !stopwords.has(word)).map((word) => stemmer.stemWord(word));
  },

  // The question, and the headings of each page, once for each search.
  prepare() {
    const typed = document.querySelector("input[name=q]")?.value;
    const query = (typed || new URLSearchParams(location.search).get("q") || "").trim().replace(/\(\)$/, "");
    if (this.query === query) return;
    this.query = query;
    this.asked = this.words(query);
    this.isName = /[a-z][A-Z]|[._]|^[A-Z]{2,}$/.test(query);
    this.headings = {};
    for (const [heading, places] of Object.entries(Search._index.alltitles)) {
      for (const [file] of places) {
        (this.headings[Search._index.docnames[file]] ||= []).push(heading);
      }
    }
  },

  // From 0 to 1: how much of a heading the question is, if all words of the question are in the heading.
  share(heading) {
    const words = this.words(heading);
    const all = this.asked.length > 0 && this.asked.every((word) => words.includes(word));
    return all ? this.asked.length / words.length : 0;
  },

  score(result) {
    this.prepare();
    const [page, title, , about, given, , kind] = result;
    if (kind === "object") {
      const name = title.split(" (")[0];
      const parts = name.split(".");
      const same = name === this.query || parts.at(-1) === this.query;
      const exported = parts.length === 2 && same && !about.startsWith("Python module");
      return given - 3 * parts.length + (name === this.query ? 10 : 0) + (same ? 10 : 0)
        + (this.isName ? 60 : exported ? 20 : -10);
    }
    const far = page.startsWith("reference/api/") ? !this.isName : this.collections.test(page);
    const own = this.share(title.split(" > ").at(-1));
    if (kind === "title") return (20 + 40 * own + (title.includes(" > ") ? 0 : 5)) * (far ? 0.5 : 1);
    const best = Math.max(0, ...(this.headings[page] || []).map((heading) => this.share(heading)));
    return 5 + (30 * own + 20 * best) * (far ? 0.4 : 1) - (far ? 4 : 0);
  },
};
