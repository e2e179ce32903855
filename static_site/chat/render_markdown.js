// Draws Markdown while it arrives. Finished parts do not change, so a selection in them stays. This module creates few kinds of elements and never HTML text.

import { copyText, followEnd, icon, make } from "../base/dom.js";
import { visible } from "../base/words.js";
import { inline, isSettled, nextBlock } from "./markdown.js";

/** @typedef {import("./markdown.js").Block} Block */
/** @typedef {{indent: number, list: HTMLElement, item: HTMLElement}} List */
/** The place for the next block. @typedef {{lists: List[], body: HTMLElement|null, pre: HTMLElement|null}} Place */
/** A drawn block that may still change. `before` is the place where it was drawn. @typedef {{shape: string, root: HTMLElement, leaf: HTMLElement, before: Place}} Drawn */

const SLICE_MS = 12; // a frame has 16
const DEEPEST = 6; // the most lists inside each other

/** Makes a button that copies the text which is shown at the time of the press. @param {() => string} text */
export function makeCopy(text) {
	const word = make("span", "Copy");
	const button = make("button.bare", icon("copy"), word);
	button.addEventListener("click", () => copyText(word, text()));
	return button;
}

/** @param {import("./markdown.js").Part[]} parts  @returns {(Node|string)[]} */
const nodesOf = (parts) => parts.map((part) => (typeof part === "string" ? visible(part) : make(part.kind, ...nodesOf(part.parts))));

export class Markdown {
	#rest = ""; // the end of the text, whose drawing may still change
	/** @type {import("./markdown.js").Inside} */
	#inside = {};
	/** @type {Drawn[]} */
	#tail = [];
	/** @type {Place} */
	#place = { lists: [], body: null, pre: null };
	#ended = false;
	#planned = false;

	constructor() {
		this.element = make("div.answer");
	}

	/** Adds more of the text. Pieces that arrive together are drawn together. @param {string} more */
	write(more) {
		this.#rest += more;
		this.#plan();
	}

	/** The text is complete, so a mark that was never closed was plain text. */
	end() {
		this.#ended = true;
		this.#plan();
	}

	#plan() {
		if (this.#planned) return;
		this.#planned = true;
		queueMicrotask(() => this.#draw());
	}

	#draw() {
		const until = performance.now() + SLICE_MS;
		let [from, n] = [0, 0];
		let [at, inside] = [0, this.#inside];
		this.#planned = false;
		for (let found; (found = nextBlock(this.#rest, at, inside, this.#ended)); ({ end: at, inside } = found)) {
			if (performance.now() > until) {
				this.#planned = true;
				setTimeout(() => this.#drawNext());
				break;
			}
			this.#drawBlock(n, found.block, !this.#ended && found.end === this.#rest.length);
			if (this.#ended || (from === at && isSettled(this.#rest, found.end))) {
				this.#tail.shift();
				[from, this.#inside] = [found.end, found.inside];
			} else n += 1;
		}
		if (!this.#planned) this.#takeBack(n);
		this.#rest = this.#rest.slice(from);
	}

	/** Draws the next slice of the text. A frame may have passed since the last slice, so the box is measured again. */
	#drawNext() {
		const box = this.element.closest("#transcript");
		const follow = box && followEnd(box);
		this.#draw();
		follow?.();
	}

	/** Removes elements that were drawn too early. @param {number} count */
	#takeBack(count) {
		for (const { root, before } of this.#tail.splice(count).reverse()) {
			root.remove();
			this.#place = before;
		}
	}

	/** @param {number} n  @param {Block} block  @param {boolean} open */
	#drawBlock(n, block, open) {
		const shape = [block.kind, block.indent, block.ordered, block.start, block.first, block.joined, block.minor].join();
		if (this.#tail[n]?.shape !== shape) {
			this.#takeBack(n);
			this.#tail.push({ shape, before: this.#place, ...this.#add(block) });
		}
		const { leaf } = this.#tail[n];
		if (block.kind === "code") grow(leaf, visible(block.text));
		else if (block.cells) leaf.replaceChildren(...block.cells.map((cell) => make(block.first ? "th" : "td", ...nodesOf(inline(cell, open)))));
		else if (block.text) leaf.replaceChildren(...nodesOf(inline(block.text, open)));
	}

	/** Adds a block's elements without text. Returns the outermost added element as `root`, and the element for the text as `leaf`. @param {Block} block */
	#add(block) {
		const { kind, indent } = block;
		const { pre, body, lists: before } = this.#place;
		const known = kind === "code" ? pre : kind === "row" && !block.first ? body : null;
		if (known) return both(known.appendChild(make(kind === "code" ? "span.piece" : "tr")));
		const lists = before.filter((each) => indent > each.indent + 1).slice(0, DEEPEST);
		const box = lists[lists.length - 1]?.item ?? this.element;
		this.#place = { lists, body: null, pre: null };
		if (kind === "item") {
			const tag = block.ordered ? "ol" : "ul";
			const beside = before[lists.length]?.list;
			const item = make("li", make("span"));
			const isNew = beside?.localName !== tag;
			const list = isNew ? Object.assign(make(tag), block.ordered && { start: block.start }) : beside;
			list.append(item);
			if (isNew) box.append(list);
			lists.push({ indent, list, item });
			return { root: isNew ? list : item, leaf: /** @type {HTMLElement} */ (item.firstChild) };
		}
		if (kind === "fence") {
			const code = make("pre");
			code.tabIndex = 0;
			this.#place.pre = code;
			const copy = makeCopy(() => (code.textContent ?? "").trimEnd()); // with a line end, a shell would run the command when it is pasted
			return both(box.appendChild(make("div.code", code, copy)));
		}
		if (kind === "row") {
			const row = make("tr");
			this.#place.body = make("tbody", row);
			const scroller = Object.assign(make("div.scroll", make("table", this.#place.body)), { tabIndex: 0, role: "group", ariaLabel: "Table" });
			return { root: box.appendChild(scroller), leaf: row };
		}
		const tag = { heading: block.minor ? "h4.minor" : "h4", rule: "hr", quote: "blockquote" }[/** @type {string} */ (kind)];
		return both(box.appendChild(make(tag ?? (block.joined ? "p.joined" : "p"))));
	}
}

/** @param {HTMLElement} element */
const both = (element) => ({ root: element, leaf: element });

/** Changes a text that mostly grows. @param {HTMLElement} element  @param {string} words */
function grow(element, words) {
	const text = /** @type {Text|null} */ (element.firstChild);
	if (text && words.startsWith(text.data)) text.appendData(words.slice(text.data.length));
	else element.textContent = words;
}
