// Draws all VMs in their groups. A row that has not changed is not drawn again.

import { $, icon, make, setIcon, setShown, setText } from "../base/dom.js";
import { groupsOf } from "./groups.js";

/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("./groups.js").Row} Row */

const FIELD_FROM = 9; // with this many VMs, the list has a field to search it
const STEP = 60; // rows that are added when the end comes into sight
const EVERY_MS = 250; // so that the answers of fifty hosts are drawn together

/** @type {Map<string, {item: HTMLElement, drawn: string}>} the drawn rows, by the key of the row */
const rows = new Map();
/** @type {Map<string, HTMLElement>} the drawn groups, by the name of the group */
const groups = new Map();

let most = STEP; // rows that are drawn
let last = { at: 0, query: "", most };
/** @type {ReturnType<typeof setTimeout>|undefined} */
let later;

/** @param {State} state  @param {number} now  @param {() => unknown} drawRest  called when more is to be drawn */
export function renderList(state, now, drawRest) {
	const field = /** @type {HTMLInputElement} */ ($("find"));
	clearTimeout(later);
	if (last.most === most && last.query === field.value && Math.abs(now - last.at) < EVERY_MS) {
		later = setTimeout(drawRest, EVERY_MS);
		return;
	}
	const count = state.health.vms.length;
	setShown({ "find-row": count >= FIELD_FROM });
	field.placeholder = `Find among ${count} VMs`;
	const found = groupsOf(state, now, field.value);
	const focused = document.activeElement;
	if (last.query !== field.value) most = STEP;
	let room = most;
	const boxes = [];
	for (const group of found) {
		if (room <= 0) break;
		boxes.push(groupBox(group.name));
		const [title, list] = /** @type {[HTMLElement, HTMLElement]} */ ([...groupBox(group.name).children]);
		setText(/** @type {Element} */ (title.firstElementChild), group.title);
		setText(/** @type {Element} */ (title.lastElementChild), group.note);
		place(list, group.rows.slice(0, room).map(drawRow));
		room -= group.rows.length;
	}
	place($("rows"), boxes);
	watchEnd(room < 0, drawRest);
	$("rows-none").hidden = found.length > 0;
	if (focused !== document.activeElement && focused instanceof HTMLElement && $("rows").contains(focused)) focused.focus({ preventScroll: true });
	last = { at: now, query: field.value, most };
}

/** @type {IntersectionObserver|undefined} */
let watcher;

/** Draws more rows when the end of the drawn rows comes near. @param {boolean} hasMore  @param {() => unknown} drawRest */
function watchEnd(hasMore, drawRest) {
	watcher?.disconnect(); // a new observer tells at once whether the end is near
	watcher = undefined;
	if (!hasMore) return;
	watcher = new IntersectionObserver(([{ isIntersecting }]) => {
		if (!isIntersecting) return;
		most += STEP;
		drawRest();
	}, { rootMargin: "1500px" });
	watcher.observe($("rows-end"));
}

/** Makes these elements the content of a place, in this order. An element that is there already is not moved. @param {HTMLElement} list  @param {HTMLElement[]} wanted */
function place(list, wanted) {
	const kept = new Set(wanted);
	for (const child of [...list.children]) if (!kept.has(/** @type {HTMLElement} */ (child))) child.remove();
	let next = list.firstElementChild;
	for (const each of wanted) {
		if (each === next) next = next.nextElementSibling;
		else list.insertBefore(each, next);
	}
}

/** @param {string} name */
function groupBox(name) {
	const box = groups.get(name) ?? make("section.group", make("h2", make("span"), " ", make("small")), make("ul.rows"));
	box.dataset.group = name;
	groups.set(name, box);
	return box;
}

/** @param {Row} row */
function drawRow(row) {
	const known = rows.get(row.key) ?? { item: make("li", make("button.row", make("span.tile", icon("unknown")), make("span", make("b"), make("span")), make("small"))), drawn: "" };
	rows.set(row.key, known);
	const { item } = known;
	const drawn = JSON.stringify(row);
	if (drawn === known.drawn) return item;
	known.drawn = drawn;
	const button = /** @type {HTMLElement} */ (item.firstElementChild);
	Object.assign(button.dataset, { tone: row.tone, ...(row.vm ? { vm: row.vm } : { find: row.find }) });
	setIcon(button, row.icon);
	const [title, words, age] = button.querySelectorAll("b, span > span, :scope > small");
	setText(title, row.title);
	setText(words, row.words);
	setText(age, row.age);
	return item;
}
