// The page's helpers for the DOM. They insert text as text, never as markup.

import { visible } from "./words.js";

/** @param {string} id  @returns {HTMLElement} */
export const $ = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** Writes a text only if it differs from the present one, because a live region would speak the same text again. @param {Element} element  @param {unknown} value */
export function setText(element, value) {
	const shown = visible(value);
	if (element.textContent !== shown) element.textContent = shown;
}
/** @param {Record<string, unknown>} words by id */
export const setTexts = (words) => Object.entries(words).forEach(([id, value]) => setText($(id), value));

/** Shows and hides elements by id, and moves the focus out of a hidden one. @param {Record<string, unknown>} wanted */
export function setShown(wanted) {
	for (const [id, shown] of Object.entries(wanted)) {
		if (!shown) leave($(id));
		$(id).hidden = !shown;
	}
}

/** Moves the focus out of an element that is about to be hidden or removed. @param {Element} element */
export function leave(element) {
	if (element.contains(document.activeElement)) $("headline").focus({ preventScroll: true });
}

/** Makes an element from `tag` or `tag.class`. A button submits nothing. @param {string} kind  @param {...(Node|string|null|undefined)} children  @returns {HTMLElement} */
export function make(kind, ...children) {
	const [tag, className = ""] = kind.split(".");
	const element = Object.assign(document.createElement(tag), { className }, tag === "button" && { type: tag });
	element.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
	return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the icons of index.html, hidden from screen readers. @param {string} name  @returns {SVGElement} */
export function icon(name) {
	const drawing = document.createElementNS(SVG, "svg");
	drawing.setAttribute("class", "i");
	drawing.setAttribute("aria-hidden", "true");
	const use = document.createElementNS(SVG, "use");
	use.setAttribute("href", `#i-${name}`);
	drawing.append(use);
	return drawing;
}

/** Changes the icon at the beginning of an element. @param {Element} element  @param {string} name  @param {boolean} live */
export function setIcon(element, name, live = false) {
	const drawing = element.querySelector("svg.i");
	drawing?.firstElementChild?.setAttribute("href", `#i-${name}`);
	drawing?.classList.toggle("live", live);
}

/** @type {WeakMap<Element, string>} the values that each list shows */
const listed = new WeakMap();

/** Draws the items of a list, but only if a value has changed. @template T  @param {Element} element  @param {T[]} values  @param {(value: T) => Element} makeItem */
export function setItems(element, values, makeItem) {
	const key = JSON.stringify(values);
	if (listed.get(element) === key) return;
	listed.set(element, key);
	element.replaceChildren(...values.map(makeItem));
}

/** @param {Element} element  @param {string[]} values */
export const setList = (element, values = []) => setItems(element, values, (value) => make("li", value));

/** @type {WeakMap<Element, {size: number, full: boolean}>} the last piece of each long text */
const pieces = new WeakMap();

/** Adds text in pieces, because a browser lays out the whole block again for each added word. @param {Element} box  @param {unknown} more */
export function appendText(box, more) {
	for (const part of visible(more).match(/[^]{0,4000}\n|[^]{1,4000}/gu) ?? []) {
		let piece = box.lastElementChild;
		let known = piece && pieces.get(piece);
		if (!piece || !known || known.full) {
			piece = box.appendChild(make("span.piece"));
			known = { size: 0, full: false };
		}
		piece.append(part);
		const size = known.size + part.length;
		pieces.set(piece, { size, full: size > 40_000 || (size > 4_000 && part.endsWith("\n")) });
	}
}

/** @type {WeakMap<Element, string>} */
const drawn = new WeakMap();

/** Fills a box with a text that may have grown. The old part and a selection in it stay. @param {Element} box  @param {string} words */
export function fillText(box, words) {
	const before = drawn.get(box) ?? "";
	if (words === before) return;
	drawn.set(box, words);
	if (before && words.startsWith(before)) {
		const follow = followEnd(box);
		appendText(box, words.slice(before.length));
		follow();
		return;
	}
	box.replaceChildren();
	appendText(box, words);
}

/** @type {WeakSet<Element>} boxes that scroll to their end in the next frame */
const following = new WeakSet();

/** Keeps a box that is scrolled to its end at the end, unless a person scrolls up. @param {Element} box */
export function followEnd(box) {
	if (following.has(box)) return () => {};
	const { scrollHeight, scrollTop, clientHeight } = box;
	return () => {
		if (scrollHeight - scrollTop - clientHeight >= 40) return;
		following.add(box);
		requestAnimationFrame(() => {
			following.delete(box);
			if (box.scrollTop > Math.min(scrollTop, box.scrollHeight - box.clientHeight) - 1) box.scrollTo(0, box.scrollHeight);
		});
	};
}

/** @param {string} words */
export function makePre(words) {
	const box = make("pre");
	box.tabIndex = 0;
	appendText(box, words);
	return box;
}

const LOSES = /\bqm (reset|stop) /;
const SHOWS = /^(pvesm|pvecm|ha-manager|ip) /;

/** Makes the row of a command, with its cost and a button that copies the command. @param {string} line */
export function makeCommand(line) {
	const button = make("button.bare", icon("copy"), make("span", "Copy"));
	button.dataset.copy = line;
	return make("div.command", make("code", line), button, LOSES.test(line) ? make("small", "Unsaved work is lost.") : "");
}

/** Makes the row of a command on a host, below the place where to run the command. @param {{place: string, command: string}} cure */
export const makeCure = ({ place, command }) => make("div.commands", make("small", place ? `As root on ${place}${SHOWS.test(command) ? ", to see the cause" : ""}` : "By hand, once the cause is gone"), makeCommand(command));

/** Makes the picture of the console from its bytes in base64. @param {string} png  @param {string} at */
export function makePicture(png, at) {
	const image = new Image();
	image.alt = `The console at ${at}`;
	image.src = URL.createObjectURL(pngBlob(png));
	for (const end of ["load", "error"]) image.addEventListener(end, () => URL.revokeObjectURL(image.src), { once: true });
	return image;
}

/** @param {string} png  in base64 */
export const pngBlob = (png) => new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" });

/** Copies a text, and says on the button whether that worked. @param {Element} word  @param {string} text */
export async function copyText(word, text) {
	try {
		await navigator.clipboard.writeText(text);
		setText(word, "Copied");
	} catch {
		setText(word, "Not copied");
	}
}
