// Draws what is known: after every event, and once a second. What is drawn where, app.js says.

import { newView } from "./shape.js";
import { getState, subscribe, viewOf } from "./store.js";

/** @typedef {import("./shape.js").State} State */
/** @typedef {import("./shape.js").View} View */
/** A region of the page. Of a VM that is not here nothing is known: `named` is empty then.
 * @typedef {(state: State, view: View, now: number, named: View) => unknown} Draw */

/** @type {Draw[]} */
let regions = [];
let due = false;

const PRESS_MS = 1_500; // a finger that rests longer is no press
let pressedAt = 0;
addEventListener("pointerdown", () => { pressedAt = Date.now(); });
for (const type of ["pointerup", "pointercancel", "blur"]) addEventListener(type, () => { pressedAt = 0; });

/** Draws in a moment: once for all that happens at once. */
function drawSoon() {
	if (due) return;
	due = true;
	queueMicrotask(() => {
		due = false;
		draw();
	});
}

/** Draws everything, unless a finger is down: nothing is re-worded under it. */
export function draw() {
	if (Date.now() - pressedAt < PRESS_MS) {
		setTimeout(drawSoon, 100);
		return;
	}
	const state = getState();
	const view = viewOf();
	const named = state.unknownVm ? newView("") : view; // nothing of another VM is shown in its place
	for (const region of regions) {
		try {
			region(state, view, Date.now(), named);
		} catch (error) {
			reportError(error); // a region that can't be drawn takes no other with it
		}
	}
}

/** @param {...Draw} all */
export function startDrawing(...all) {
	regions = all;
	draw();
}

subscribe(drawSoon);
addEventListener("resize", drawSoon); // what has room is another
