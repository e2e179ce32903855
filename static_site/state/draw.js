// Draws the state after every event and once a second. app.js and press.js say which part draws what.

import { newView } from "./shape.js";
import { getState, subscribe, viewOf } from "./store.js";

/** @typedef {import("./shape.js").State} State */
/** @typedef {import("./shape.js").View} View */
/** Draws a region of the page. `named` is the view, but empty if the address names a VM that does not exist here.
 * @typedef {(state: State, view: View, now: number, named: View) => unknown} Draw */

/** @type {Draw[]} */
const regions = [];
let due = false;

const PRESS_MS = 1_500; // a finger that rests longer than this is not about to press
let pressedAt = 0;
addEventListener("pointerdown", () => { pressedAt = Date.now(); });
for (const type of ["pointerup", "pointercancel", "blur"]) addEventListener(type, () => { pressedAt = 0; });

/** Draws in the next frame, once for all events until then. */
function drawSoon() {
	if (due) return;
	due = true;
	queueMicrotask(() => {
		due = false;
		draw();
	});
}

/** Draws everything, unless a finger is down, because no word may change under a finger. */
export function draw() {
	if (Date.now() - pressedAt < PRESS_MS) {
		setTimeout(drawSoon, 100);
		return;
	}
	const state = getState();
	const view = viewOf();
	const named = state.unknownVm ? newView("") : view; // the name of a VM that does not exist here must not stand above another VM's state
	for (const region of regions) {
		try {
			region(state, view, Date.now(), named);
		} catch (error) {
			reportError(error); // an error in one region must not stop the others
		}
	}
}

/** Draws these regions too. @param {...Draw} more */
export function startDrawing(...more) {
	regions.push(...more);
	drawSoon();
}

/** Leaves the page as it is, because a part of it did not load and start_trouble.js says so. */
export function stopDrawing() {
	regions.length = 0;
}

subscribe(drawSoon);
addEventListener("resize", drawSoon); // because other parts may fit now
