// Draws all VMs, worst first. The colour of the tile shows the state.

import { $, icon, make, setIcon, setText } from "../base/dom.js";
import { span } from "../base/words.js";
import { getState, viewOf } from "../state/store.js";
import { headlineOf, urgency } from "./headline.js";

/** @typedef {import("../state/shape.js").State} State */

/** @type {Map<string, HTMLElement>} */
const rows = new Map();
let shown = "";

/** @param {State} state  @param {number} now */
export function renderList(state, now) {
	const names = state.health.vms.map(({ name }) => name);
	const known = { ...state, unknownVm: "" }; // a link to a VM that is not here says nothing about the VMs of the list
	const heads = new Map(names.map((name) => [name, headlineOf(known, viewOf(name), now)]));
	const rank = (/** @type {string} */ name) => urgency(/** @type {import("./headline.js").Headline} */ (heads.get(name)));
	const order = names.toSorted((a, b) => rank(a) - rank(b));
	placeRows(order);
	for (const name of order) {
		const head = heads.get(name);
		const row = rowOf(name).firstElementChild;
		if (!head || !row) continue;
		const { seen } = viewOf(name);
		/** @type {HTMLElement} */ (row).dataset.tone = head.tone;
		setIcon(row, head.icon);
		const [title, words, age] = row.querySelectorAll("b, span > span, :scope > small");
		const vmid = getState().health.vms.find((vm) => vm.name === name)?.vmid;
		setText(title, vmid ? `${name} · ${vmid}` : name);
		setText(words, head.words);
		setText(age, seen ? span(now - seen.at) : "");
	}
}

/** Sorts the rows if their order has changed. The row that has the focus keeps it. @param {string[]} order */
function placeRows(order) {
	if (order.join() === shown) return;
	shown = order.join();
	const focused = document.activeElement;
	$("rows").replaceChildren(...order.map(rowOf));
	if (focused instanceof HTMLElement && $("rows").contains(focused)) focused.focus();
}

/** @param {string} name */
function rowOf(name) {
	const known = rows.get(name);
	if (known) return known;
	const button = make("button.row", make("span.tile", icon("unknown")), make("span", make("b"), make("span")), make("small"));
	button.dataset.vm = name;
	const item = make("li", button);
	rows.set(name, item);
	return item;
}
