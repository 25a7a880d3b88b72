"use strict";
// The viewer of attacked clips: state, controls, keys and play. Names reach the page as text only.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const reel = JSON.parse(document.getElementById("data").textContent).reel;
  const byName = Object.fromEntries(reel.modalities.map((m) => [m.name, m]));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const state = {
    clip: 0, condition: "joint", models: new Set(), phase: 0, playing: false, speed: 1,
    overlay: true, side: false, fooled: "", held: "", views: [], seconds: 2, frames: 16, visible: false, ticket: 0,
  };

  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const option = (value, text) => make("option", { value, textContent: text });
  const words = (condition) => {
    const [kind, name] = condition.split(/:(.*)/s);
    return kind === "only" ? `only ${name}` : kind === "joint" ? "all at once" : condition;
  };
  const clip = () => reel.clips[state.clip];
  const here = (i = state.clip) => Object.keys(reel.clips[i].models).filter((m) => state.models.has(m));

  // ---- controls
  const play = make("button", { type: "button", className: "play" });
  const scrub = make("input", { type: "range", min: 0, max: 1, step: "any", value: 0, ariaLabel: "time in the clip" });
  const clock = make("output", { className: "clock" });
  const speed = make("select", { ariaLabel: "speed" }, ...[0.25, 0.5, 1, 2].map((s) => option(s, `${s}×`)));
  const picker = make("select", { ariaLabel: "clip" });
  const back = make("button", { type: "button", textContent: "‹", ariaLabel: "previous clip" });
  const next = make("button", { type: "button", textContent: "›", ariaLabel: "next clip" });
  const attacks = make("div", { className: "switch", role: "group", ariaLabel: "what was attacked" });
  const chips = make("div", { className: "chips", role: "group", ariaLabel: "models" });
  const overlay = make("input", { type: "checkbox", checked: true });
  const side = make("select", {}, option("", "from the front"), option("side", "from the side"));
  const fooled = make("select", { ariaLabel: "show clips that fooled" });
  const held = make("select", { ariaLabel: "but did not fool" });
  const counts = make("output", { className: "small" });
  const about = make("p", { className: "about" });
  const cards = make("div", { className: "stage" });

  speed.value = "1";
  const several = reel.models.length > 1;
  const skeletal = reel.modalities.some((m) => m.kind === "skeleton");
  const overlaid = reel.modalities.some((m) => m.camera && m.bones.length) && reel.modalities.some((m) => m.kind === "video");
  for (const [select, nobody] of [[fooled, "any or none"], [held, "—"]]) {
    select.append(option("", nobody), ...reel.models.map((name, m) => option(m, name)));
  }
  root.append(
    make("div", { className: "bar" },
      make("span", { className: "pick" }, back, picker, next), attacks, chips),
    ...(several ? [make("div", { className: "bar filter" },
      make("label", {}, "clips that fooled ", fooled), make("label", {}, "but not ", held), counts)] : []),
    about, cards,
    make("div", { className: "bar transport" }, play, scrub, clock, speed,
      ...(overlaid ? [make("label", {}, overlay, " skeleton on the picture")] : []),
      ...(skeletal ? [make("label", {}, "skeleton seen ", side)] : [])));

  // ---- which clips
  // What an attack did to a model on a clip: it fooled it, or the model held; null where it was wrong anyway or not asked.
  function fate(i, m, condition = state.condition) {
    const said = reel.clips[i].models[m]?.said;
    if (!said?.[condition] || said.clean?.right === false) return null;
    return said[condition].right ? "held" : "fooled";
  }
  const wanted = (i) => (!state.fooled || fate(i, state.fooled) === "fooled") && (!state.held || fate(i, state.held) === "held");
  const matches = () => reel.clips.map((_, i) => i).filter(wanted);
  // A clip that tells the models apart that are shown first, else one that fooled somebody, else the first.
  function opening() {
    const all = reel.clips.map((_, i) => i);
    const fates = (i, models) => models.map((m) => fate(i, m, "joint"));
    const apart = all.find((i) => ["fooled", "held"].every((f) => fates(i, reel.first).includes(f)));
    return apart ?? all.find((i) => fates(i, Object.keys(reel.clips[i].models)).includes("fooled")) ?? 0;
  }

  // ---- what is shown
  function verdict(said, condition) {
    const line = (label, s) => make("p", { className: s.right ? "right" : "wrong" },
      make("span", { textContent: label }), make("b", { textContent: `${s.right ? "✓" : "✗"} ${s.class}` }),
      make("span", { className: "small", textContent: s.right ? "right" : "wrong" }));
    return make("div", { className: "verdict" },
      ...(said.clean ? [line("untouched", said.clean)] : []),
      ...(said[condition] ? [line("attacked", said[condition])] : []));
  }

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function figure({ caption, ratio, scale, paint }) {
    const canvas = make("canvas", { width: 440, height: Math.round(440 * ratio), role: "img", ariaLabel: caption });
    state.views.push({ paint: (phase) => paint(canvas, phase) });
    const legend = scale ? [make("p", { className: "scale" }, scale[0], make("i"), `${scale[1]} ${scale[2]}`.trim())] : [];
    if (scale) legend[0].querySelector("i").style.background = Draw.gradient();
    return make("figure", {}, canvas, make("figcaption", {}, caption, ...legend));
  }

  // One card: a model's name and what it said, and a row for each modality.
  async function card(model) {
    const attacked = model !== null, c = clip();
    const shown = reel.modalities.filter((m) => c.clean[m.name]);
    const parts = await Promise.all(shown.map((m) => Panels.unpack(c, model, state.condition, m)));
    return { parts, attacked, state, colour, title: attacked ? reel.models[model] : "Original", said: c.models[model]?.said };
  }

  function built(one) {
    const rows = Panels.rows(one).map(({ name, figures }) => make("div", { className: "frames" },
      ...(figures.length ? figures.map(figure) : [make("p", { className: "untouched", textContent: `${name} as it was` })])));
    return make("article", { className: one.attacked ? "take" : "take original" },
      make("header", {}, make("h3", { textContent: one.title }), ...(one.said ? [verdict(one.said, state.condition)] : [])),
      ...rows);
  }

  async function show() {
    const ticket = ++state.ticket;
    menus();
    cards.setAttribute("aria-busy", "true"); // until what is seen is what was chosen
    if (!matches().length) {
      state.views = [];
      cards.replaceChildren(make("p", { className: "flag", textContent: "None of the clips that were kept is such a one." }));
      cards.setAttribute("aria-busy", "false");
      return;
    }
    const made = await Promise.all([null, ...here()].map(card));
    if (ticket !== state.ticket) return; // something else was chosen meanwhile
    state.views = [];
    cards.style.setProperty("--models", String(made.length - 1));
    cards.style.setProperty("--rows", String(made[0].parts.length + 1));
    cards.replaceChildren(...made.map(built));
    const moving = made[0].parts.filter((p) => p.kind !== "strip");
    const seen = moving.filter((p) => p.kind !== "series"); // frames are those of the picture where there is one
    const lengths = (seen.length ? seen : moving).map((p) => [p.clean.shape[0], p.modality.rate]);
    state.frames = Math.max(1, ...lengths.map(([T]) => T));
    state.seconds = Math.max(0.5, ...lengths.map(([T, rate]) => (rate ? T / rate : T / 8)));
    paint();
    cards.setAttribute("aria-busy", "false");
  }

  // A clip in the menu, with how the models that are shown fared on it.
  function label(i) {
    const fates = here(i).map((m) => ({ fooled: "✗", held: "✓" })[fate(i, m)] ?? "·");
    return `${i + 1}. ${reel.clips[i].target.join(", ")}${several && fates.length ? `  ${fates.join(" ")}` : ""}`;
  }

  // How many clips are left, and of how many tested samples the same holds.
  function tally(left) {
    const of = reel.tally[state.condition] ?? {}, [a, b] = [state.fooled, state.held];
    const tested = a && b ? of[a]?.[b] : a ? of[a]?.fooled : b ? of[b]?.held : undefined;
    const all = tested === undefined ? "" : `; so ${tested[0] === 1 ? "is" : "are"} ${tested[0]} of ${tested[1]} tested samples`;
    return `${left} of ${reel.clips.length} clips${all}`;
  }

  function menus() {
    const found = matches();
    if (found.length && !found.includes(state.clip)) [state.clip] = found;
    const c = clip();
    picker.replaceChildren(...found.map((i) => option(i, label(i))));
    picker.value = String(state.clip);
    for (const button of [back, next]) button.disabled = found.length < 2;
    counts.textContent = tally(found.length);
    const kinds = Object.values(c.models).flatMap((m) => Object.keys(m.changes));
    const measured = new Set(kinds.sort((a, b) => (a === "joint") - (b === "joint")));
    if (!measured.has(state.condition)) state.condition = measured.has("joint") ? "joint" : [...measured][0] ?? "";
    attacks.replaceChildren(...[...measured].map((condition) => {
      const button = make("button", { type: "button", textContent: words(condition) });
      button.setAttribute("aria-pressed", String(condition === state.condition));
      button.addEventListener("click", () => { state.condition = condition; show(); });
      return button;
    }));
    if (!here().length) {
      const known = Object.keys(c.models), first = reel.first.filter((m) => known.includes(m));
      (first.length ? first : known.slice(0, 1)).forEach((m) => state.models.add(m));
    }
    chips.replaceChildren(...(reel.models.length < 2 ? [] : Object.keys(c.models).map((m) => {
      const box = make("input", { type: "checkbox", checked: state.models.has(m) });
      box.addEventListener("change", () => { state.models[box.checked ? "add" : "delete"](m); show(); });
      return make("label", { className: "chip-label" }, box, " ", reel.models[m]);
    })));
    about.replaceChildren("true class ", make("b", { textContent: c.target.join(", ") }),
      make("span", { className: "small", textContent: ` · ${c.id}${c.group ? ` · ${c.group}` : ""}` }));
  }

  function paint() {
    for (const view of state.views) view.paint(state.phase);
    scrub.value = String(state.phase);
    clock.textContent = `${Math.min(state.frames, Math.floor(state.phase * state.frames + 1e-6) + 1)} / ${state.frames}`;
    play.textContent = state.playing ? "❚❚" : "▶";
    play.setAttribute("aria-label", state.playing ? "pause" : "play");
  }

  // ---- play
  let last = 0;
  function tick(now) {
    if (!state.playing) return;
    if (state.visible && last) {
      state.phase = (state.phase + (state.speed * Math.min(now - last, 200)) / (1000 * state.seconds)) % 1;
      paint();
    }
    last = now;
    requestAnimationFrame(tick);
  }
  function toggle(on = !state.playing) {
    if (on === state.playing) return;
    state.playing = on;
    last = 0;
    if (on) requestAnimationFrame(tick);
    paint();
  }
  function step(by) {
    toggle(false);
    const frame = Math.floor(state.phase * state.frames + 1e-6) + by;
    state.phase = (((frame % state.frames) + state.frames) % state.frames) / state.frames;
    paint();
  }
  function turn(by) {
    const found = matches();
    if (!found.length) return;
    state.clip = found[(found.indexOf(state.clip) + by + found.length) % found.length];
    state.phase = 0;
    show();
  }
  function nextAttack() {
    const buttons = [...attacks.children];
    buttons[(buttons.findIndex((b) => b.ariaPressed === "true") + 1) % buttons.length]?.click();
  }

  play.addEventListener("click", () => toggle());
  scrub.addEventListener("input", () => { toggle(false); state.phase = Math.min(Number(scrub.value), 0.9999); paint(); });
  speed.addEventListener("change", () => { state.speed = Number(speed.value); });
  picker.addEventListener("change", () => { state.clip = Number(picker.value); state.phase = 0; show(); });
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  overlay.addEventListener("change", () => { state.overlay = overlay.checked; paint(); });
  for (const [select, name] of [[fooled, "fooled"], [held, "held"]]) {
    select.addEventListener("change", () => {
      state[name] = select.value;
      if (select.value) state.models.add(select.value); // who is asked about is seen
      show();
    });
  }
  side.addEventListener("change", () => { state.side = side.value === "side"; paint(); });
  const keys = {
    " ": () => toggle(), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    n: () => turn(1), p: () => turn(-1), c: nextAttack,
  };
  root.addEventListener("keydown", (event) => {
    const own = event.target.closest("select, input, button"); // controls keep their own keys
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    if (own && (own.tagName === "SELECT" || event.key === " " || own.type === "range")) return;
    event.preventDefault();
    keys[event.key]();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  if (!window.DecompressionStream || !window.OffscreenCanvas) {
    root.replaceChildren(make("p", { className: "flag", textContent: "This browser is too old for the viewer; the rest of the page is complete." }));
    return;
  }
  let started = false;
  new IntersectionObserver(([entry]) => {
    state.visible = entry.isIntersecting;
    if (state.visible && !started) {
      started = true;
      if (!still.matches) toggle(true);
    }
  }, { threshold: 0.15 }).observe(root);
  reel.first.forEach((m) => state.models.add(m));
  state.clip = opening();
  show();
})();
