"use strict";
// The viewer of attacked clips: state, controls, keys and play. Names reach the page as text only.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const reel = JSON.parse(document.getElementById("data").textContent).reel;
  const byName = Object.fromEntries(reel.modalities.map((m) => [m.name, m]));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const LANES = 8; // more features than this are drawn as a picture
  const state = {
    clip: 0, condition: "", models: new Set(), phase: 0, playing: false, speed: 1,
    overlay: true, magnify: 1, side: false, views: [], seconds: 2, frames: 16, visible: false, ticket: 0,
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
  const here = () => Object.keys(clip().models).filter((m) => state.models.has(m));

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
  const magnify = make("select", {}, ...[1, 3, 10].map((g) => option(g, g === 1 ? "as it is" : `${g}×`)));
  const side = make("select", {}, option("", "from the front"), option("side", "from the side"));
  const about = make("p", { className: "about" });
  const cards = make("div", { className: "stage" });

  reel.clips.forEach((c, i) => picker.append(option(i, `${i + 1}. ${c.target.join(", ")}`)));
  speed.value = "1";
  const skeletal = reel.modalities.some((m) => m.kind === "skeleton");
  const overlaid = reel.modalities.some((m) => m.camera && m.bones.length) && reel.modalities.some((m) => m.kind === "video");
  root.append(
    make("div", { className: "bar" },
      make("span", { className: "pick" }, back, picker, next), attacks, chips),
    about, cards,
    make("div", { className: "bar transport" }, play, scrub, clock, speed,
      ...(overlaid ? [make("label", {}, overlay, " skeleton on the picture")] : []),
      ...(skeletal ? [make("label", {}, "joint shifts ", magnify), make("label", {}, "seen ", side)] : [])));

  // ---- what is shown
  function figure(caption, ratio) {
    const canvas = make("canvas", { width: 440, height: Math.round(440 * ratio), role: "img", ariaLabel: caption });
    return { canvas, node: make("figure", {}, canvas, make("figcaption", { textContent: caption })) };
  }

  function verdict(said, condition) {
    const line = (label, s) => make("p", { className: s.right ? "right" : "wrong" },
      make("span", { textContent: label }), make("b", { textContent: `${s.right ? "✓" : "✗"} ${s.class}` }),
      make("span", { className: "small", textContent: s.right ? "right" : "wrong" }));
    return make("div", { className: "verdict" },
      ...(said.clean ? [line("untouched", said.clean)] : []),
      ...(said[condition] ? [line("attacked", said[condition])] : []));
  }

  async function gather(model) {
    const found = {};
    for (const [name, packed] of Object.entries(clip().clean)) {
      const change = model === null ? null : clip().models[model].changes[state.condition]?.[name];
      const [clean, moved, mask] = await Promise.all([packed, change, packed.mask].map(Draw.unpack));
      found[name] = { modality: byName[name], clean, change: moved, mask };
      if (byName[name].kind === "series" && clean.shape[1] > LANES) {
        found[name] = { modality: byName[name], clean: Draw.asPicture(clean), change: Draw.asPicture(moved), strip: true };
      }
    }
    return found;
  }

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function overlays(canvas, parts, attacked, phase) {
    for (const { modality, clean, change, mask } of Object.values(parts)) {
      if (modality.kind !== "skeleton" || !modality.camera || !modality.bones.length || clean.shape[3] < 3) continue;
      const place = Draw.projector(canvas, modality.camera);
      const moved = attacked && change;
      Draw.skeleton(canvas, modality, clean, null, mask, phase, place, colour("--original"), { dashed: Boolean(moved) });
      if (moved) {
        Draw.skeleton(canvas, modality, clean, change, mask, phase, place, colour("--attacked"), { gain: state.magnify });
      }
    }
  }

  // The figures of one card: each is a canvas and a function of the phase that paints it.
  function figures(parts, attacked) {
    const shown = [];
    const add = (caption, ratio, paint) => {
      const f = figure(caption, ratio);
      shown.push({ node: f.node, paint: (phase) => paint(f.canvas, phase) });
    };
    for (const [name, { modality, clean, change, mask, strip }] of Object.entries(parts)) {
      if (modality.kind === "video" || strip) {
        const ratio = strip ? 0.6 : clean.shape[1] / clean.shape[2];
        const head = (canvas, phase) => { if (strip) Draw.playhead(canvas, phase, colour("--attacked")); };
        if (!attacked || change) {
          add(attacked ? `${name}, attacked` : name, ratio, (canvas, phase) => {
            Draw.picture(canvas, clean, change, phase);
            if (!strip && state.overlay) overlays(canvas, parts, attacked, phase);
            head(canvas, phase);
          });
        }
        if (attacked && change) {
          add(`difference, magnified ${modality.gain}×`, ratio, (canvas, phase) => {
            Draw.picture(canvas, clean, change, phase, { difference: true, gain: modality.gain });
            head(canvas, phase);
          });
        }
      } else if (modality.kind === "skeleton") {
        if (attacked && !change) continue;
        add(attacked ? `${name}, attacked over original` : name, 1, (canvas, phase) => {
          canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
          const place = Draw.fitted(canvas, clean, mask, state.side);
          Draw.skeleton(canvas, modality, clean, null, mask, phase, place, colour("--original"), { dashed: attacked });
          if (attacked) {
            Draw.skeleton(canvas, modality, clean, change, mask, phase, place, colour("--attacked"), { gain: state.magnify });
          }
        });
      } else {
        if (attacked && !change) continue;
        add(attacked ? `${name}, attacked over original` : `${name} (${modality.unit})`, 1, (canvas, phase) => {
          canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
          Draw.lanes(canvas, clean, null, colour("--original"), attacked);
          if (attacked) Draw.lanes(canvas, clean, change, colour("--attacked"), false);
          Draw.playhead(canvas, phase, colour("--muted"));
        });
      }
    }
    return shown;
  }

  async function show() {
    const ticket = ++state.ticket;
    menus();
    const models = here();
    const loaded = await Promise.all([gather(null), ...models.map(gather)]);
    if (ticket !== state.ticket) return; // something else was chosen meanwhile
    state.views = [];
    const built = loaded.map((parts, i) => {
      const attacked = i > 0;
      const shown = figures(parts, attacked);
      state.views.push(...shown);
      const untouched = Object.entries(parts).filter(([, p]) => attacked && !p.change).map(([name]) => name);
      const note = untouched.length ? [make("p", { className: "small", textContent: `${untouched.join(", ")} as it was` })] : [];
      const title = attacked ? reel.models[models[i - 1]] : "Original";
      const said = attacked ? [verdict(clip().models[models[i - 1]].said, state.condition)] : [];
      return make("article", { className: attacked ? "take" : "take original" },
        make("header", {}, make("h3", { textContent: title }), ...said),
        make("div", { className: "frames" }, ...shown.map((s) => s.node)), ...note);
    });
    cards.replaceChildren(...built);
    const moving = Object.values(loaded[0]).filter((p) => !p.strip);
    const seen = moving.filter((p) => p.modality.kind !== "series"); // frames are those of the picture where there is one
    const lengths = (seen.length ? seen : moving).map((p) => [p.clean.shape[0], p.modality.rate]);
    state.frames = Math.max(1, ...lengths.map(([T]) => T));
    state.seconds = Math.max(0.5, ...lengths.map(([T, rate]) => (rate ? T / rate : T / 8)));
    paint();
  }

  function menus() {
    const c = clip();
    picker.value = String(state.clip);
    const found = Object.values(c.models).flatMap((m) => Object.keys(m.changes));
    const measured = new Set(found.sort((a, b) => (a === "joint") - (b === "joint")));
    if (!measured.has(state.condition)) state.condition = measured.has("joint") ? "joint" : [...measured][0] ?? "";
    attacks.replaceChildren(...[...measured].map((condition) => {
      const button = make("button", { type: "button", textContent: words(condition) });
      button.setAttribute("aria-pressed", String(condition === state.condition));
      button.addEventListener("click", () => { state.condition = condition; show(); });
      return button;
    }));
    if (!here().length) {
      const known = Object.keys(c.models), wanted = reel.first.filter((m) => known.includes(m));
      (wanted.length ? wanted : known.slice(0, 1)).forEach((m) => state.models.add(m));
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
    state.clip = (state.clip + by + reel.clips.length) % reel.clips.length;
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
  magnify.addEventListener("change", () => { state.magnify = Number(magnify.value); paint(); });
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
  show();
})();
