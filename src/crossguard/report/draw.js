"use strict";
// Painters of the viewer: unpacking, videos, differences, skeletons, series. Nothing here knows the page.
const Draw = (() => {
  const TYPES = { u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array };
  // Stops of a ramp that rises evenly in lightness and keeps its order for colour-blind readers.
  const RAMP = [[0, 32, 77], [66, 78, 108], [124, 123, 120], [188, 175, 111], [255, 234, 70]];
  const unpacked = new WeakMap();

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  // {shape, values: Float32Array, low, high} of a packed array; each is unpacked once.
  function unpack(packed) {
    if (!packed) return Promise.resolve(null);
    if (!unpacked.has(packed)) {
      unpacked.set(packed, inflate(packed.z).then((buffer) => {
        const codes = new TYPES[packed.type](buffer);
        const values = Float32Array.from(codes, (q) => packed.offset + packed.step * q);
        const top = packed.type === "u1" ? 255 : 65535;
        return { shape: packed.shape, values, low: packed.offset, high: packed.offset + packed.step * top };
      }));
    }
    return unpacked.get(packed);
  }

  const frameAt = (array, phase) => Math.min(array.shape[0] - 1, Math.floor(phase * array.shape[0] + 1e-6));

  function ramp(share) {
    const at = Math.max(0, Math.min(0.9999, share)) * (RAMP.length - 1);
    const i = Math.floor(at), f = at - i;
    return RAMP[i].map((c, k) => c + f * (RAMP[i + 1][k] - c));
  }

  // The map's colours as a gradient for CSS, low values left.
  const gradient = () => `linear-gradient(to right, ${RAMP.map(([r, g, b]) => `rgb(${r} ${g} ${b})`).join(", ")})`;

  // One picture of `clean` + `change` (or of the magnified change alone), scaled to the canvas without smoothing; what
  // the mask leaves out is not drawn.
  function picture(canvas, clean, change, mask, phase, { difference = false, gain = 1 } = {}) {
    const [, H, W, C] = clean.shape;
    const small = canvas.small ?? (canvas.small = new OffscreenCanvas(W, H));
    if (small.width !== W || small.height !== H) { small.width = W; small.height = H; }
    const context = small.getContext("2d");
    const image = context.createImageData(W, H);
    const frame = frameAt(clean, phase) * H * W, wide = clean.high - clean.low || 1;
    for (let p = 0; p < H * W; p++) {
      if (mask && !mask.values[frame + p]) continue;
      for (let k = 0; k < 3; k++) {
        const at = (frame + p) * C + (C === 3 ? k : 0);
        const moved = change ? change.values[at] : 0;
        if (difference) image.data[4 * p + k] = 128 + (255 * gain * moved) / wide;
        else if (C === 3) image.data[4 * p + k] = (255 * (clean.values[at] + moved - clean.low)) / wide;
        else { image.data.set(ramp((clean.values[at] + moved - clean.low) / wide), 4 * p); break; }
      }
      image.data[4 * p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const out = canvas.getContext("2d");
    out.imageSmoothingEnabled = false;
    out.clearRect(0, 0, canvas.width, canvas.height);
    out.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  // Joint positions of one person in one frame; null where a joint is masked out or the person is not there.
  function joints(clean, change, mask, t, m, gain) {
    const [, M, V, C] = clean.shape;
    const found = [];
    for (let v = 0; v < V; v++) {
      const at = ((t * M + m) * V + v) * C;
      const real = !mask || mask.values[(t * M + m) * V + v] > 0;
      const point = [0, 1, 2].map((k) => (k < C ? clean.values[at + k] + (change ? gain * change.values[at + k] : 0) : 0));
      found.push(real && point.some((value) => value !== 0) ? point : null);
    }
    return found;
  }

  const projector = (canvas, [fx, fy, cx, cy]) => ([x, y, z]) =>
    z > 0 ? [canvas.width * (cx + (fx * x) / z), canvas.height * (cy - (fy * y) / z)] : null;

  // A view from the front (x, y) or the side (z, y) that holds the whole clip; two coordinates are read as a picture's.
  function fitted(canvas, clean, mask, side) {
    const [T, M, V, C] = clean.shape;
    const across = side && C > 2 ? 2 : 0, sign = C > 2 ? -1 : 1;
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let t = 0; t < T; t++) for (let m = 0; m < M; m++) for (const p of joints(clean, null, mask, t, m, 0)) {
      if (!p) continue;
      [p[across], p[1]].forEach((value, k) => { low[k] = Math.min(low[k], value); high[k] = Math.max(high[k], value); });
    }
    const room = 0.84, scale = room * Math.min(
      canvas.width / Math.max(high[0] - low[0], 1e-6), canvas.height / Math.max(high[1] - low[1], 1e-6));
    const middle = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
    return (p) => [
      canvas.width / 2 + scale * (p[across] - middle[0]), canvas.height / 2 + sign * scale * (p[1] - middle[1])];
  }

  function skeleton(canvas, modality, clean, change, mask, phase, place, colour, { dashed = false, thin = false } = {}) {
    const context = canvas.getContext("2d");
    const t = frameAt(clean, phase), unit = canvas.width / 220;
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = (thin ? 1.2 : dashed ? 1.6 : 2.2) * unit;
    context.lineCap = "round";
    context.setLineDash(dashed ? [3 * unit, 3 * unit] : []);
    for (let m = 0; m < clean.shape[1]; m++) {
      const points = joints(clean, change, mask, t, m, 1).map((p) => p && place(p));
      context.beginPath();
      for (const [a, b] of modality.bones) {
        if (!points[a] || !points[b]) continue;
        context.moveTo(...points[a]);
        context.lineTo(...points[b]);
      }
      context.stroke();
      for (const p of thin ? [] : points) {
        if (!p) continue;
        context.beginPath();
        context.arc(p[0], p[1], (dashed ? 1.6 : 2.3) * unit, 0, 7);
        context.fill();
      }
    }
    context.setLineDash([]);
  }

  // Where each joint was moved to, `gain` times as far, as a line with a dot at its end.
  function shifts(canvas, clean, change, mask, phase, place, colour, gain) {
    const context = canvas.getContext("2d");
    const t = frameAt(clean, phase), unit = canvas.width / 220;
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = 2.2 * unit;
    for (let m = 0; m < clean.shape[1]; m++) {
      const from = joints(clean, null, mask, t, m, 0), to = joints(clean, change, mask, t, m, gain);
      from.forEach((p, v) => {
        if (!p || !to[v]) return;
        const [a, b] = [place(p), place(to[v])];
        context.beginPath();
        context.moveTo(...a);
        context.lineTo(...b);
        context.stroke();
        context.beginPath();
        context.arc(b[0], b[1], 2.6 * unit, 0, 7);
        context.fill();
      });
    }
  }

  // Each feature in a lane of its own: the values, or (flat) `gain` times the change around the middle of the lane.
  function lanes(canvas, clean, change, colour, { dashed = false, flat = false, gain = 1 } = {}) {
    const [T, D] = clean.shape;
    const context = canvas.getContext("2d");
    const wide = clean.high - clean.low || 1, tall = canvas.height / D;
    context.strokeStyle = colour;
    context.lineWidth = canvas.width / 200;
    context.setLineDash(dashed ? [canvas.width / 60, canvas.width / 80] : []);
    for (let d = 0; d < D; d++) {
      context.beginPath();
      for (let t = 0; t < T; t++) {
        const moved = change ? change.values[t * D + d] : 0;
        const height = flat ? 0.5 + (gain * moved) / wide : (clean.values[t * D + d] + moved - clean.low) / wide;
        const y = tall * (d + 0.95 - 0.9 * Math.max(-0.05, Math.min(1.05, height)));
        context.lineTo((t / Math.max(T - 1, 1)) * canvas.width, y);
      }
      context.stroke();
    }
    context.setLineDash([]);
  }

  // A series of many features becomes one picture: features up, time to the right.
  function asPicture(array) {
    if (!array) return null;
    const [T, D] = array.shape;
    const values = new Float32Array(T * D);
    for (let t = 0; t < T; t++) for (let d = 0; d < D; d++) values[(D - 1 - d) * T + t] = array.values[t * D + d];
    return { ...array, shape: [1, D, T, 1], values };
  }

  // Where the clip stands in a picture of all its time.
  function playhead(canvas, phase, colour) {
    const context = canvas.getContext("2d");
    context.fillStyle = colour;
    context.fillRect(phase * canvas.width, 0, Math.max(1, canvas.width / 200), canvas.height);
  }

  return { unpack, gradient, picture, skeleton, shifts, lanes, asPicture, playhead, projector, fitted };
})();
