// What the metrics found in frames, drawn over the videos: faces (FaceSim) and subjects (NexusScore).
"use strict";

// Boxes of one video by the place of the frame at which they were found.
function foundIn(track, details) {
  const boxes = [];
  for (const { column, details: said } of details) {
    const { metric } = track.columns[column];
    if (!Array.isArray(said[`${metric === "facesim" ? "face" : "subject"}_boxes`]) || !(said.frames > 1)) continue;
    if (metric === "facesim") {
      for (const [place, ...sides] of said.face_boxes) {
        const likeness = said.frame_cosines?.[place];
        boxes.push({ at: place / (said.frames - 1), sides, kind: likeness > 0 ? "face" : "face left-out",
          text: typeof likeness === "number" ? `face ${likeness.toFixed(2)}` : "face" });
      }
    } else if (metric === "nexusscore") {
      for (const [place, reference, kept, ...sides] of said.subject_boxes) {
        const name = said.references?.[reference]?.label ?? `reference ${reference + 1}`;
        boxes.push({ at: place / (said.frames - 1), sides, kind: kept ? "subject" : "subject left-out", text: name });
      }
    }
  }
  return boxes.filter(({ sides }) => sides.length === 4 && sides.every((side) => typeof side === "number"));
}

// The checkbox, and what lays boxes over a video while it is on. Details are loaded when they are first wanted.
function makeFound(state, sample, player) {
  const { track } = state;
  const films = [];
  const metrics = track.columns.filter(({ metric }) => metric === "facesim" || metric === "nexusscore");
  const box = h("input", { type: "checkbox", checked: state.found, change: () => {
    // The address follows without drawing the page anew: the videos stay where they are.
    history.replaceState(null, "", address({ found: box.checked ? "yes" : null }));
    draw();
  } });
  const said = h("span", { class: "quiet", role: "status" });
  const controls = metrics.length && track.hasVideos ? h("p", { class: "found-controls" },
    h("label", {}, box, " Faces and subjects that were found"), " ", said) : null;

  async function draw() {
    if (!box.checked) {
      said.textContent = "";
      for (const film of films) film.layer.replaceChildren();
      return;
    }
    const details = await loadDetails(track.number, sample);
    if (!box.checked) return;
    for (const film of films) {
      film.boxes = details === null ? [] : foundIn(track, details.filter((one) => one.method === track.rows.method[film.row] && one.seed === track.rows.seed[film.row]));
      place(film);
    }
    said.textContent = details === null ? "The file with the details is missing beside this page."
      : films.some((film) => film.boxes.length) ? "Dashed: seen, but not counted. Between the frames that a metric looked at, the last boxes stay."
        : "These records hold no boxes.";
  }

  // The boxes of the last frame, up to the one that is shown, at which the metrics looked.
  function place(film) {
    const { video, layer, boxes } = film;
    if (!box.checked || !boxes || !(video.duration > 0)) return;
    const rate = track.methods[track.rows.method[film.row]].fps || 24;
    const last = Math.max(0, Math.round(video.duration * rate) - 1);
    const shown = Math.floor(video.currentTime * rate + 1e-6);
    const frames = boxes.map(({ at }) => Math.floor(at * last + 1e-6));
    const of = { face: -1, subject: -1 };
    boxes.forEach(({ kind }, index) => {
      const group = kind.split(" ")[0];
      if (frames[index] <= shown) of[group] = Math.max(of[group], frames[index]);
    });
    layer.replaceChildren(...boxes.filter(({ kind }, index) => frames[index] === of[kind.split(" ")[0]]).map(({ sides: [left, top, right, bottom], kind, text }) => styled(
      h("div", { class: `found ${kind}` }, h("span", {}, text)),
      { left: `${left / 10}%`, top: `${top / 10}%`, width: `${(right - left) / 10}%`, height: `${(bottom - top) / 10}%` })));
  }

  function over(video, row) {
    if (controls === null || video.tagName !== "VIDEO") return video;
    const layer = h("div", { class: "layer", "aria-hidden": "true" });
    const film = { video, row, layer, boxes: null };
    films.push(film);
    player.watch(() => place(film));
    video.addEventListener("loadeddata", () => place(film));
    return h("div", { class: "film" }, video, layer);
  }

  // After the videos are there.
  if (state.found) queueMicrotask(draw);
  return { controls, over };
}
