"use strict";
(() => {
  const PERIOD = 1000; // between two questions, in milliseconds, unless the answer says when to ask again
  const PATIENCE = 5000; // for an answer, in milliseconds
  const SPAN = 180; // of the charts, in seconds
  const WINDOW = 10; // over which rates and times are computed, in seconds
  const GRAVE = 4000; // for which a worker that has ended stays in view, in milliseconds
  const FAILURES = 10; // that are listed
  const SVG = "http://www.w3.org/2000/svg";
  const base = location.origin + location.pathname.replace(/\/*$/, "/");
  const byId = (id) => document.getElementById(id);

  // Elements. All text gets into the page as text.

  const el = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const attribute = (node, name, value) => {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  };
  const button = (text, unseen, act, grave) => {
    const node = el("button", { type: "button" }, text, el("span", { class: "unseen" }, unseen));
    if (grave) node.className = "grave";
    node.addEventListener("click", act);
    return node;
  };

  // Numbers.

  const count = (number) => number.toLocaleString("en");
  const rate = (number) => (number === null ? "–" : number >= 100 ? count(Math.round(number)) : number.toFixed(1));
  const seconds = (time) => {
    if (time === null || time === undefined) return "–";
    if (time === 0) return "0 s";
    if (time === Infinity) return "> 36 min";
    if (time < 0.001) return `${Math.round(time * 1e6)} µs`;
    if (time < 1) return `${(time * 1e3).toFixed(time < 0.01 ? 1 : 0)} ms`;
    if (time < 60) return `${time.toFixed(1)} s`;
    if (time < 3600) return `${Math.floor(time / 60)} min ${Math.floor(time % 60)} s`;
    if (time < 86400) return `${Math.floor(time / 3600)} h ${Math.floor((time % 3600) / 60)} min`;
    return `${Math.floor(time / 86400)} d ${Math.floor((time % 86400) / 3600)} h`;
  };
  const bytes = (number) => {
    if (number === null || number === undefined) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = 0;
    for (; number >= 1024 && at < units.length - 1; at++) number /= 1024;
    return `${at && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[at]}`;
  };
  const clock = (date) => date.toLocaleTimeString("en-GB");
  const sum = (pairs) => pairs.reduce((total, [, number]) => total + number, 0);

  // Counters only rise, so a rate is the difference of two samples.

  const sampleOf = (pool) => {
    const calls = new Map();
    for (const call of pool.calls) {
      const failed = sum(call.failures);
      const answered = call.succeeded + call.errors + failed;
      calls.set(call.name, { answered, failed, run: new Map(call.run.buckets) });
    }
    const total = (field) => [...calls.values()].reduce((all, call) => all + call[field], 0);
    return {
      at: pool.uptime, calls, answered: total("answered"), failed: total("failed"),
      waiting: pool.queue.length, leased: pool.counts.leased,
      cpu: new Map(pool.workers.map((worker) => [worker.number, worker.cpu_time])),
    };
  };
  const runs = (sample, name) => {
    const all = new Map();
    for (const [own, call] of sample.calls) {
      if (name !== undefined && own !== name) continue;
      for (const [end, number] of call.run) all.set(end, (all.get(end) || 0) + number);
    }
    return all;
  };
  // Buckets end at powers of two; within one the times are taken for evenly spread.
  const quantile = (now, before, part) => {
    const rows = [...now].map(([end, number]) => [end ?? Infinity, number - (before.get(end) || 0)]);
    rows.sort((a, b) => a[0] - b[0]);
    const wanted = sum(rows) * part;
    let seen = 0;
    for (const [end, number] of rows) {
      if (number > 0 && seen + number >= wanted) {
        return end === Infinity ? end : (end / 2) * (1 + (wanted - seen) / number);
      }
      seen += number;
    }
    return null;
  };

  // Tables, whose rows stay the same elements while they are updated, so that focus and selection stay.

  class Table {
    constructor(caption, columns, empty) {
      this.columns = columns;
      this.rows = new Map();
      this.body = el("tbody", { role: "rowgroup" });
      const heads = columns.map(([name, kind]) =>
        el("th", { scope: "col", role: "columnheader", class: kind || "" }, name));
      this.table = el("table", { role: "table" }, el("caption", {}, caption),
        el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.body);
      this.empty = el("p", { class: "empty" }, empty);
      this.node = el("div", {}, this.table, this.empty);
    }
    // `rows`: an id, the cells, and the elements of the last cell if it has any.
    show(rows, leaves) {
      const shown = new Set(rows.map((row) => row.id));
      for (const [id, row] of this.rows) {
        if (!shown.has(id)) this.leave(id, row, leaves);
      }
      rows.forEach((wanted) => {
        let row = this.rows.get(wanted.id);
        if (!row) {
          row = this.make(wanted);
          this.rows.set(wanted.id, row);
          this.body.append(row.node);
        }
        wanted.cells.forEach((value, at) => this.fill(row.cells[at], value));
      });
      const order = [...this.rows.keys()].sort((a, b) => this.place(a, rows) - this.place(b, rows));
      order.forEach((id, at) => {
        const node = this.rows.get(id).node;
        if (this.body.children[at] !== node) this.body.insertBefore(node, this.body.children[at] || null);
      });
      this.table.hidden = this.rows.size === 0;
      this.empty.hidden = this.rows.size > 0;
    }
    place(id, rows) {
      const at = rows.findIndex((row) => row.id === id);
      return at < 0 ? (typeof id === "number" ? rows.filter((row) => row.id < id).length - 0.5 : rows.length) : at;
    }
    fill(cell, value) {
      const [text, kind] = Array.isArray(value) ? value : [value, ""];
      const target = cell.firstElementChild || cell;
      if (kind) target.className = kind;
      say(target, text);
    }
    make(wanted) {
      const cells = this.columns.map(([name, kind, holder], at) => {
        const cell = el(at ? "td" : "th", { role: at ? "cell" : "rowheader", class: kind || "" });
        if (!at) cell.setAttribute("scope", "row");
        if (kind !== "buttons") cell.dataset.name = name;
        if (holder) cell.append(el("span"));
        return cell;
      });
      if (wanted.buttons) cells[cells.length - 1].append(...wanted.buttons());
      return { node: el("tr", { role: "row" }, ...cells), cells };
    }
    leave(id, row, leaves) {
      if (leaves && !row.left) {
        row.left = Date.now();
        row.node.className = "gone";
        leaves(row);
        row.node.querySelectorAll("button").forEach((button) => (button.disabled = true));
      }
      if (!leaves || Date.now() - row.left > GRAVE) {
        row.node.remove();
        this.rows.delete(id);
      }
    }
  }

  // Charts of the last minutes. A gap is a time in which the page was not looked at.

  class Chart {
    constructor(name, first, second) {
      this.name = name;
      this.labels = [first, second].filter(Boolean);
      const caption = el("figcaption", {}, el("b", {}, name));
      this.values = this.labels.map((label, at) => {
        const value = el("span");
        caption.append(el("span", { class: `key ${at ? "second" : "first"}` }, `${label} `, value));
        return value;
      });
      this.svg = document.createElementNS(SVG, "svg");
      for (const [key, value] of [["viewBox", "0 0 100 40"], ["preserveAspectRatio", "none"], ["role", "img"]]) {
        this.svg.setAttribute(key, value);
      }
      this.paths = this.labels.map((_, at) => {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", at ? "second" : "first");
        this.svg.append(path);
        return path;
      });
      this.most = el("span");
      const scale = el("div", { class: "scale", "aria-hidden": "true" },
        el("span", {}, "3 min ago"), this.most, el("span", {}, "now"));
      this.node = el("figure", {}, caption, this.svg, scale);
    }
    show(samples, series, format) {
      const now = samples[samples.length - 1].at;
      const most = Math.max(...series.flat().filter((value) => value !== null && isFinite(value)), 0);
      series.forEach((values, line) => {
        let path = "";
        let last = null;
        values.forEach((value, at) => {
          const x = 100 - ((now - samples[at].at) / SPAN) * 100;
          const shown = value !== null && isFinite(value);
          const joins = last !== null && samples[at].at - last < 5;
          if (shown) path += `${joins ? "L" : "M"}${x.toFixed(2)} ${(39 - (most ? (value / most) * 37 : 0)).toFixed(2)}`;
          last = shown ? samples[at].at : null;
        });
        this.paths[line].setAttribute("d", path);
        say(this.values[line], format(values[values.length - 1]));
      });
      say(this.most, `up to ${format(most)}`);
      const current = this.labels.map((label, at) => `${label} ${format(series[at][series[at].length - 1])}`);
      attribute(this.svg, "aria-label", `${this.name} in the last three minutes: now ${current.join(", ")}, at most ${format(most)}`);
    }
  }

  // One pool.

  class PoolView {
    constructor(key, at) {
      this.key = key;
      this.samples = [];
      const id = `pool-${at}`;
      this.name = el("h2", { id: `${id}-name`, class: "long" });
      this.status = el("span", { class: "badge" });
      this.uptime = el("span", { class: "empty" });
      this.buttons = el("span", { class: "buttons" });
      this.notice = el("p", { class: "notice" });
      this.facts = el("dl", { class: "facts" });
      this.charts = {
        calls: new Chart("Calls per second", "answered", "failed"),
        load: new Chart("Load", "busy workers", "waiting"),
        times: new Chart("Run time", "median", "99 %"),
      };
      this.failures = el("ol", { class: "failures", reversed: "" });
      this.failureTitle = el("h3");
      this.listed = new Map();
      this.node = el("section", { id, "aria-labelledby": `${id}-name` },
        el("div", { class: "title" }, this.name, this.status, this.uptime, this.buttons), this.notice, this.facts,
        el("div", { class: "charts" }, ...Object.values(this.charts).map((chart) => chart.node)));
      this.link = el("a", { href: `#${id}` });
    }

    prepare(overview) {
      this.actions = overview.actions;
      this.dossiers = overview.dossiers;
      const columns = [["Worker"], ["Process"], ["State", "", true], ["Running call", "long", true], ["For", "number"],
        ["Age", "number"], ["Calls", "number"], ["Checkouts", "number"], ["Memory", "number"], ["CPU", "number"]];
      if (this.actions) columns.push(["Actions", "buttons"]);
      this.workers = new Table("Workers", columns, "No worker.");
      this.holders = new Table("Who holds workers for longest",
        [["Worker"], ["Asked for at", "long wide"], ["For", "number"], ["Does"]], "No worker is held.");
      this.messages = new Table("Messages", [["Message", "long"], ["Per second", "number"], ["Answered", "number"],
        ["Errors", "number"], ["Failures", "number"], ["Median run", "number"], ["99 % run", "number"]], "No call yet.");
      this.node.append(this.workers.node, this.messages.node, this.holders.node, this.failureTitle, this.failures);
      if (!this.actions) return;
      const act = (verb, effect) => async () => {
        const title = `${verb} the pool ${this.pool.pool}?`;
        if (!effect || (await ask(title, effect, verb))) this.act(verb.toLowerCase(), `${verb} ${this.pool.pool}`);
      };
      const of = ` the pool`;
      this.pause = button("Pause", of, act("Pause", "No call begins until the pool is resumed. Calls that run go on."));
      this.resume = button("Resume", of, act("Resume"));
      this.recycle = button("Recycle", `${of}: replace its workers`,
        act("Recycle", "All workers are replaced, each once it has finished what it runs."));
      this.buttons.append(this.pause, this.resume, this.recycle);
    }

    async act(path, what) {
      await send(`${encodeURIComponent(this.key)}/${path}`, what);
    }

    show(pool, overview) {
      if (this.actions !== overview.actions || this.dossiers !== overview.dossiers) {
        if (this.actions !== undefined) return location.reload();
        this.prepare(overview);
      }
      const last = this.samples[this.samples.length - 1];
      if (last && pool.uptime < last.at) this.forget();
      if (!last || pool.uptime !== last.at) this.samples.push(sampleOf(pool));
      while (this.samples[0].at < pool.uptime - SPAN) this.samples.shift();
      this.pool = pool;
      this.showTitle(pool);
      this.showFacts(pool);
      this.showCharts();
      this.showWorkers(pool);
      this.showMessages(pool);
      this.holders.show(pool.holders.map((holder) => ({
        id: holder.worker,
        cells: [String(holder.worker), holder.place, seconds(holder.held_for), holder.is_running ? "runs a call" : "waits for its holder"],
      })));
      this.showFailures(pool);
    }

    // The application was started anew.
    forget() {
      this.samples = [];
      this.listed.forEach((node) => node.remove());
      this.listed.clear();
    }

    // The sample with which the one at this index is compared.
    before(at) {
      const now = this.samples[at].at;
      let from = at;
      while (from > 0 && this.samples[from].at > now - WINDOW) from--;
      return this.samples[from];
    }

    showTitle(pool) {
      say(this.name, pool.pool);
      say(this.link, pool.pool);
      const status = pool.paused && pool.status === "open" ? "paused" : pool.status;
      say(this.status, status);
      this.status.className = `badge ${status}`;
      say(this.uptime, `since ${seconds(Math.floor(pool.uptime))}`);
      const outages = pool.servers.map((server) => server.outage).filter(Boolean);
      const notices = {
        stopped: "This pool has stopped. It takes no calls any more.",
        stopping: "This pool is being stopped. It takes no calls any more.",
        closing: "The last handle of this pool was dropped. It finishes what it has, and ends.",
        paused: "This pool is paused. Calls wait until it is resumed.",
      };
      const notice = [notices[status], ...outages.map((why) => `There is no fork server: ${why}.`)].filter(Boolean).join(" ");
      say(this.notice, notice);
      this.notice.hidden = !notice;
      if (!this.actions) return;
      this.pause.hidden = pool.paused;
      this.resume.hidden = !pool.paused;
      for (const node of [this.pause, this.resume, this.recycle]) node.disabled = pool.status !== "open";
    }

    showFacts(pool) {
      const { counts, limits, queue, totals } = pool;
      const server = pool.servers.map((one) => one.pid && `pid ${one.pid}`).filter(Boolean).join(", ");
      const facts = [
        ["Workers", `${pool.workers.length} of ${limits.min_workers} to ${limits.max_workers}`],
        ["In use", `${counts.leased}, and ${counts.idle} idle`],
        ["Starting, ending", `${counts.starting}, ${counts.ending}`],
        ["Waiting", queue.length ? `${count(queue.length)}, for ${seconds(queue.oldest)}` : "nothing"],
        ["Forked", count(totals.forked)],
        ["Ended", totals.ends.map(([reason, number]) => `${reason} ${count(number)}`).join(", ") || "none"],
        ["Memory of blobs", limits.blob_memory ? `${bytes(pool.blob_bytes)} of ${bytes(limits.blob_memory)}` : "none"],
        ["Fork server", server || "elsewhere, or none"],
      ];
      facts.forEach(([name, value], at) => {
        const row = this.facts.children[at] || this.facts.appendChild(el("div", {}, el("dt", {}, name), el("dd")));
        say(row.lastChild, value);
      });
    }

    showCharts() {
      const rates = this.samples.map((sample, at) => {
        const before = this.samples[Math.max(at - 1, 0)];
        const time = sample.at - before.at;
        const per = (field) => (time > 0 && time < 5 ? (sample[field] - before[field]) / time : null);
        return [per("answered"), per("failed")];
      });
      this.charts.calls.show(this.samples, [rates.map((pair) => pair[0]), rates.map((pair) => pair[1])], rate);
      const load = ["leased", "waiting"].map((field) => this.samples.map((sample) => sample[field]));
      this.charts.load.show(this.samples, load, (number) => count(number ?? 0));
      // What is past does not change.
      this.samples.forEach((sample, at) => {
        if (sample.times) return;
        const [now, before] = [runs(sample), runs(this.before(at))];
        sample.times = at ? [quantile(now, before, 0.5), quantile(now, before, 0.99)] : [null, null];
      });
      const times = [0, 1].map((line) => this.samples.map((sample) => sample.times[line]));
      this.charts.times.show(this.samples, times, seconds);
    }

    showWorkers(pool) {
      const before = this.samples[Math.max(this.samples.length - 2, 0)];
      const time = pool.uptime - before.at;
      const cpu = (worker) => {
        const used = worker.cpu_time - (before.cpu.get(worker.number) ?? NaN);
        return worker.cpu_time === null || !(time > 0) || isNaN(used) ? "–" : `${Math.round((used / time) * 100)} %`;
      };
      this.workers.show(pool.workers.map((worker) => ({
        id: worker.number,
        cells: [String(worker.number), String(worker.pid), [worker.state, `badge ${worker.state}`],
          [worker.call ?? "–", worker.call === null ? "none" : "call"], seconds(worker.running_for), seconds(Math.floor(worker.age)),
          count(worker.calls), count(worker.checkouts), bytes(worker.private_bytes), cpu(worker)],
        buttons: this.actions ? () => this.workerButtons(worker) : null,
      })), (row) => {
        this.workers.fill(row.cells[2], ["ended", "badge"]);
        this.workers.fill(row.cells[3], ["–", "none"]);
        this.workers.fill(row.cells[4], "–");
      });
    }

    workerButtons({ number, pid }) {
      const of = ` worker ${number}`;
      const drain = button("Drain", of, () => this.act(`workers/${number}/drain`, `Drain worker ${number} of ${this.pool.pool}`));
      const kill = button("Kill", of, async () => {
        const title = `Kill worker ${number} of ${this.pool.pool}?`;
        const effect = `Process ${pid} ends at once. The call that it runs fails.`;
        if (await ask(title, effect, "Kill")) this.act(`workers/${number}/kill`, `Kill worker ${number} of ${this.pool.pool}`);
      }, true);
      return [drain, kill];
    }

    showMessages(pool) {
      const now = this.samples[this.samples.length - 1];
      const before = this.before(this.samples.length - 1);
      const time = now.at - before.at;
      this.messages.show(pool.calls.map((call) => {
        const [own, old] = [now.calls.get(call.name), before.calls.get(call.name)];
        const [ran, had] = [runs(now, call.name), runs(before, call.name)];
        const part = (share) => seconds(time > 0 ? quantile(ran, had, share) : null);
        const kinds = call.failures.map(([kind, number]) => `${kind} ${count(number)}`).join(", ");
        return {
          id: call.name,
          cells: [call.name, rate(time > 0 ? (own.answered - (old?.answered || 0)) / time : null), count(own.answered),
            count(call.errors), kinds || "0", part(0.5), part(0.99)],
        };
      }));
    }

    showFailures(pool) {
      const last = pool.failures.slice(-FAILURES);
      const total = pool.failures.length ? pool.failures[pool.failures.length - 1].number : 0;
      say(this.failureTitle, total ? `Failures: the last ${last.length} of ${count(total)}` : "No failure yet");
      const shown = new Set(last.map((failure) => failure.number));
      for (const [number, node] of this.listed) {
        if (!shown.has(number)) {
          node.remove();
          this.listed.delete(number);
        }
      }
      for (const failure of last) {
        if (this.listed.has(failure.number)) continue;
        const node = this.failure(failure);
        this.listed.set(failure.number, node);
        this.failures.prepend(node);
      }
      this.failures.start = total;
    }

    failure(failure) {
      const parts = [el("time", { datetime: new Date(failure.at * 1000).toISOString() }, clock(new Date(failure.at * 1000))), " ",
        el("span", { class: "badge" }, failure.kind), " ", el("span", { class: "call long" }, failure.call ?? "no call")];
      if (failure.worker !== null) parts.push(` worker ${failure.worker}`);
      if (!this.dossiers) return el("li", {}, ...parts);
      const text = el("pre", { tabindex: "0" }, failure.text);
      const details = el("details", {}, el("summary", {}, ...parts), text);
      details.addEventListener("toggle", () => this.dossier(failure.number, text), { once: true });
      return el("li", {}, details);
    }

    async dossier(number, target) {
      try {
        const path = `failures.json?pool=${encodeURIComponent(this.key)}&since=${number - 1}`;
        const answer = await (await request(path)).json();
        const found = answer.pools[0].failures.find((failure) => failure.number === number);
        say(target, found ? found.dossier : "This failure is kept no longer.");
      } catch (error) {
        say(target, `The failure cannot be read: ${error.message}`);
      }
    }
  }

  // The application.

  const request = async (path, options = {}) => {
    const response = await fetch(base + path, {
      cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE), ...options,
    });
    if (!response.ok) {
      const line = (response.headers.get("content-type") || "").startsWith("text/plain") ? await response.text() : "";
      throw new Error(line || `the application answers ${response.status}`);
    }
    return response;
  };

  const told = byId("told");
  const send = async (path, what) => {
    try {
      const headers = { "content-type": "application/json", "x-forkpool": "dashboard" };
      const response = await request(path, { method: "POST", headers, body: "{}" });
      say(told, `${what}: ${await response.text()}.`);
    } catch (error) {
      say(told, `${what}: ${error.message}.`);
    }
    poll();
  };

  const question = byId("question");
  let answered = () => {};
  byId("yes").addEventListener("click", () => answered(true));
  byId("no").addEventListener("click", () => answered(false));
  question.addEventListener("close", () => answered(false));
  const ask = (title, effect, yes) => new Promise((resolve) => {
    say(byId("asked"), title);
    say(byId("effect"), effect);
    say(byId("yes"), yes);
    answered = (is) => {
      answered = () => {};
      question.close();
      resolve(is);
    };
    question.showModal();
  });

  const main = byId("pools");
  const connection = byId("connection");
  let views = [];
  let awaySince = null;

  const show = (overview) => {
    if (views.length !== overview.pools.length || views.some((view, at) => view.key !== overview.pools[at].key)) {
      views = overview.pools.map((pool, at) => new PoolView(pool.key, at));
      main.replaceChildren(...views.map((view) => view.node));
      byId("choice").replaceChildren(...(views.length > 1 ? views.map((view) => view.link) : []));
    }
    overview.pools.forEach((pool, at) => views[at].show(pool, overview));
    const rights = overview.actions ? "with actions" : "read-only";
    say(byId("about"), `forkpool ${overview.version}, ${rights}. Rates and times of messages are those of the last ${WINDOW} seconds.`);
  };

  const here = () => {
    say(connection, `As of ${clock(new Date())}`);
    if (!awaySince) return;
    awaySince = null;
    connection.className = main.className = "";
    document.title = "Pools";
    say(told, "The application answers again.");
  };
  const away = (error) => {
    if (!awaySince) {
      awaySince = new Date();
      connection.className = main.className = "away";
      document.title = "Pools (away)";
      say(told, "The application does not answer. The page keeps asking.");
    }
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "" : ` (${error.message})`;
    say(connection, `No answer since ${clock(awaySince)}${why}`);
  };

  let timer = null;
  let asking = false;
  const poll = async () => {
    clearTimeout(timer);
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    let overview = null;
    let wait = PERIOD;
    try {
      const response = await request("snapshot.json");
      // All viewers are given the same moment, so that the application is woken once for all of them.
      wait = Number(response.headers.get("x-forkpool-ask-again")) || PERIOD;
      overview = await response.json();
    } catch (error) {
      away(error);
    }
    asking = false;
    timer = setTimeout(poll, wait);
    if (overview) {
      here();
      show(overview);
    }
  };
  document.addEventListener("visibilitychange", poll);
  poll();
})();
