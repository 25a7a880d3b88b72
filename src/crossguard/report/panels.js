"use strict";
// The figures of one card of the viewer: what there is to see of each modality, untouched or attacked. A new kind of
// modality is one entry of KINDS: (part, card) -> [{caption, ratio, paint(canvas, phase)}]. A part holds a modality with
// what is unpacked of it (clean, change, mask), a card all parts of a sample and whether it was attacked.
const Panels = (() => {
  const LANES = 8; // more features than this are drawn as a picture

  async function unpack(clip, model, condition, modality) {
    const packed = clip.clean[modality.name];
    const change = model === null ? null : clip.models[model].changes[condition]?.[modality.name];
    const [clean, moved, mask] = await Promise.all([packed, change, packed.mask].map(Draw.unpack));
    if (modality.kind === "series" && clean.shape[1] > LANES) {
      return { modality, clean: Draw.asPicture(clean), change: Draw.asPicture(moved), mask: null, kind: "strip" };
    }
    return { modality, clean, change: moved, mask, kind: modality.kind };
  }

  const number = (value) => (Math.abs(value) >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(2))));
  const plain = (unit) => ["1", "intensity", "pixel intensity"].includes(unit);
  const unit = (m) => (plain(m.unit) ? "" : ` (${m.unit})`);

  // The skeleton of the same sample on its picture, where the camera is known.
  function overlays(canvas, phase, card) {
    for (const { modality, clean, change, mask } of card.parts) {
      if (modality.kind !== "skeleton" || !modality.camera || !modality.bones.length || clean.shape[3] < 3) continue;
      const place = Draw.projector(canvas, modality.camera), moved = card.attacked && change;
      Draw.skeleton(canvas, modality, clean, null, mask, phase, place, card.colour("--original"), { dashed: Boolean(moved) });
      if (moved) Draw.skeleton(canvas, modality, clean, change, mask, phase, place, card.colour("--attacked"));
    }
  }

  function video({ modality, clean, change, mask }, card) {
    const ratio = clean.shape[1] / clean.shape[2];
    const map = clean.shape[3] !== 3; // one value a pixel, shown by a colour map that needs its scale
    const seen = {
      caption: card.attacked ? `${modality.name}, attacked` : `${modality.name}${unit(modality)}`,
      ratio, scale: map && !card.attacked ? [number(clean.low), number(clean.high), modality.unit] : null,
      paint: (canvas, phase) => {
        Draw.picture(canvas, clean, change, mask, phase);
        if (card.state.overlay) overlays(canvas, phase, card);
      },
    };
    const difference = {
      caption: `its difference × ${modality.gain}`, ratio,
      paint: (canvas, phase) => Draw.picture(canvas, clean, change, mask, phase, { difference: true, gain: modality.gain }),
    };
    return card.attacked ? [seen, difference] : [seen];
  }

  // A series of many features is one picture for the whole clip: features up, time to the right.
  function strip(part, card) {
    const shown = video({ ...part, mask: null }, { ...card, state: { overlay: false } });
    return shown.map((f) => ({ ...f, ratio: 0.6, paint: (canvas, phase) => {
      f.paint(canvas, phase);
      Draw.playhead(canvas, phase, card.colour("--attacked"));
    } }));
  }

  function skeleton({ modality, clean, change, mask }, card) {
    const place = (canvas) => Draw.fitted(canvas, clean, mask, card.state.side);
    const bones = (canvas, phase, moved, name, options) =>
      Draw.skeleton(canvas, modality, clean, moved, mask, phase, place(canvas), card.colour(name), options);
    const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    const seen = {
      caption: card.attacked ? `${modality.name}, attacked over original` : modality.name, ratio: 1,
      paint: (canvas, phase) => {
        clear(canvas);
        bones(canvas, phase, null, "--original", { dashed: card.attacked });
        if (card.attacked) bones(canvas, phase, change, "--attacked");
      },
    };
    const shifts = {
      caption: `its joints' shifts × ${modality.gain}`, ratio: 1,
      paint: (canvas, phase) => {
        clear(canvas);
        bones(canvas, phase, null, "--faint", { thin: true });
        Draw.shifts(canvas, clean, change, mask, phase, place(canvas), card.colour("--attacked"), modality.gain);
      },
    };
    return card.attacked ? [seen, shifts] : [seen];
  }

  function series({ modality, clean, change }, card) {
    const lanes = (canvas, of, name, options) => Draw.lanes(canvas, clean, of, card.colour(name), options);
    const drawn = (paint) => (canvas, phase) => {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      paint(canvas);
      Draw.playhead(canvas, phase, card.colour("--muted"));
    };
    const span = `${number(clean.low)} to ${number(clean.high)} ${plain(modality.unit) ? "" : modality.unit}`.trim();
    const seen = {
      caption: card.attacked ? `${modality.name}, attacked over original` : `${modality.name}, each lane ${span}`, ratio: 0.72,
      paint: drawn((canvas) => {
        lanes(canvas, null, "--original", { dashed: card.attacked });
        if (card.attacked) lanes(canvas, change, "--attacked");
      }),
    };
    const difference = {
      caption: `its difference × ${modality.gain}`, ratio: 0.72,
      paint: drawn((canvas) => {
        lanes(canvas, null, "--rule", { flat: true });
        lanes(canvas, change, "--attacked", { flat: true, gain: modality.gain });
      }),
    };
    return card.attacked ? [seen, difference] : [seen];
  }

  const KINDS = { video, strip, skeleton, series };

  // The rows of a card, one a modality: [{name, figures}], no figures for what an attack left as it was.
  const rows = (card) => card.parts.map((part) => ({
    name: part.modality.name,
    figures: card.attacked && !part.change ? [] : KINDS[part.kind](part, card),
  }));

  return { unpack, rows };
})();
