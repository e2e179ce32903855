// Parses the Markdown that Claude uses most into plain data. Any other markup stays text. Pure, and takes linear time.

/** A piece of a line. An address stays text, because nothing becomes a link.
 * @typedef {string | {kind: "code"|"strong"|"em"|"s", parts: Part[]}} Part */
/** `indent` is the width of the block's indentation; with `joined`, the block continues the paragraph before it.
 * @typedef {{kind: "heading"|"quote"|"rule"|"text"|"item"|"fence"|"code"|"row", text: string, indent: number, minor?: boolean,
 *   joined?: boolean, ordered?: boolean, start?: number, first?: boolean, cells?: string[]}} Block */
/** The enclosing blocks that are open where a block begins. @typedef {{fence?: string, indent?: number, table?: boolean, joined?: boolean}} Inside */

const PIECE = 4_000; // characters: a longer paragraph or code block is split, so that each added word costs the same
const LONGEST = 16_000; // of a line

const FENCE = /^([ \t]*)(`{3,}|~{3,})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:[ \t]+(.*))?$/;

/** Returns a line, where the next line begins, and whether the line is complete. @param {string} text  @param {number} at  @returns {[string, number, boolean]} */
function lineAt(text, at) {
	const end = text.indexOf("\n", at);
	if (end >= 0 && end - at <= LONGEST) return [text.slice(at, end), end + 1, true];
	if (text.length - at <= LONGEST) return [text.slice(at), text.length, false];
	const next = at + LONGEST + Number(/[\ud800-\udbff]/.test(text[at + LONGEST - 1]));
	return [text.slice(at, next), next, true];
}

/** @param {string} space */
const width = (space) => space.replaceAll("\t", "    ").length;
/** @param {string} line */
const standsIn = (line) => width(line.slice(0, line.length - line.trimStart().length));
/** @param {string} line */
const isRow = (line) => line.trimStart().startsWith("|");

/** Whether a table may begin here: its second line is a rule, or has not arrived yet. @param {string} text  @param {string} line  @param {number} next  @param {boolean} ended */
function isTable(text, line, next, ended) {
	if (!isRow(line)) return false;
	const [rule, , whole] = lineAt(text, next);
	return /^[ \t|:-]*$/.test(rule) && (rule.includes("-") || !(whole || ended));
}

/** @param {string} line */
const cellsOf = (line) => line.trim().replaceAll("\\|", "\0").replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => cell.trim().replaceAll("\0", "|"));

/** Whether a line ends the paragraph before it. @param {string} line  @param {boolean} inItem */
function begins(line, inItem) {
	const item = ITEM.exec(line);
	if (item && (inItem || (item[3] && !/^\d*[02-9]/.test(item[2]) && !/^\d{2}/.test(item[2])))) return true;
	return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
}

/** Where a paragraph ends. @param {string} text  @param {number} from  @param {number} at  @param {boolean} inItem  @param {boolean} ended */
function proseEnd(text, from, at, inItem, ended) {
	while (at < text.length && at - from < PIECE) {
		const [line, next, whole] = lineAt(text, at);
		if (!line.trim()) return whole ? at : text.length;
		if (begins(line, inItem) || isTable(text, line, next, ended)) return at;
		at = next;
	}
	return at;
}

/** Reads the next lines of code. A fence that has not arrived completely is not shown.
 * @param {string} text  @param {number} from  @param {Inside} inside  @param {boolean} ended  @returns {Found|null} */
function readCode(text, from, inside, ended) {
	const { fence = "", indent = 0 } = inside;
	const strip = new RegExp(`^[ \\t]{1,${Math.min(indent, 99) || 1}}`, "gm");
	/** @param {number} at */
	const piece = (at) => ({ kind: /** @type {const} */ ("code"), indent, text: indent ? text.slice(from, at).replace(strip, "") : text.slice(from, at) });
	let at = from;
	while (at < text.length && at - from < PIECE) {
		const [line, next, whole] = lineAt(text, at);
		const bare = line.trim();
		if (bare.startsWith(fence) && !bare.replaceAll(fence[0], "")) return { block: piece(at), end: next, inside: {} };
		if (!whole && !ended && bare && fence.startsWith(bare)) return { block: piece(at), end: next, inside };
		at = next;
	}
	return at > from ? { block: piece(at), end: at, inside } : null;
}

/** @typedef {{block: Block, end: number, inside: Inside}} Found a block, where it ends, and the enclosing blocks that are open there */

/** Returns the next block of a text, or null if there is none. Without `ended`, more text may come.
 * @param {string} text  @param {number} from  @param {Inside} inside  @param {boolean} ended  @returns {Found|null} */
export function nextBlock(text, from, inside, ended) {
	if (inside.fence) return readCode(text, from, inside, ended);
	let [line, next] = lineAt(text, from);
	while (!line.trim()) {
		if (next >= text.length) return null;
		[from, inside] = [next, {}];
		[line, next] = lineAt(text, from);
	}
	const indent = standsIn(line);
	/** @param {Block["kind"]} kind  @param {string} words  @param {Partial<Block>} [more]  @param {number} [end]  @param {Inside} [open]  @returns {Found} */
	const found = (kind, words, more = {}, end = next, open = {}) => ({ block: { kind, text: words, indent, ...more }, end, inside: open });

	if (inside.table && isRow(line)) return found("row", "", { cells: cellsOf(line) }, next, inside);
	const fence = FENCE.exec(line);
	if (fence) return found("fence", "", {}, next, { fence: fence[2], indent });
	const heading = HEADING.exec(line);
	if (heading) return found("heading", (heading[2] ?? "").trimEnd().replace(/(?:^| )#+$/, ""), { minor: heading[1].length > 2 });
	if (RULE.test(line)) return found("rule", "");
	if (isTable(text, line, next, ended)) return found("row", "", { cells: cellsOf(line), first: true }, lineAt(text, next)[1], { table: true });
	if (QUOTE.test(line)) {
		let words = "";
		for (let [quote, after] = [QUOTE.exec(line), next]; quote && words.length < PIECE;) {
			words += `${words && "\n"}${quote[1]}`;
			next = after;
			[line, after] = lineAt(text, next);
			quote = QUOTE.exec(line);
		}
		return found("quote", words);
	}
	const item = ITEM.exec(line);
	const end = proseEnd(text, from, next, Boolean(item), ended);
	const joined = end - from >= PIECE && text[end - 1] === "\n";
	const task = (item?.[3] ?? "").replace(/^\[([ xX])\](?= )/, (_, mark) => (mark === " " ? "☐" : "☑"));
	const whole = `${item ? task : line.trimStart()}${text[next - 1] === "\n" ? "\n" : ""}${text.slice(next, end)}`;
	const words = item || indent > 1 ? whole.replace(/\n[ \t]+/g, "\n") : whole;
	const prose = joined ? words : words.trimEnd();
	const open = joined ? { joined, indent: item ? indent + 2 : indent } : {};
	if (!item) return found("text", prose, inside.joined ? { joined: true, indent: inside.indent } : {}, end, open);
	return found("item", prose, { ordered: item[2].length > 1, start: parseInt(item[2], 10) || 0 }, end, open);
}

/** Whether a block can't change any more, however the text continues, because complete lines follow it. @param {string} text  @param {number} end */
export function isSettled(text, end) {
	const [line, next, whole] = lineAt(text, end);
	return whole && (!isRow(line) || lineAt(text, next)[2]);
}

const MARK = /\\([!-/:-@[-`{-~])|(`+)|(\*+|~~)|!?\[([^[\]\n]*)\]\(((?:[^\s()]|\([^\s()]*\))+)\)/g;
const TICKS = /`+/g;
const DEEPEST = 6;

/** @param {string} mark  @param {Part[]} parts  @returns {Part} */
function emphasis(mark, parts) {
	if (mark === "~~") return { kind: "s", parts };
	if (mark.length === 1) return { kind: "em", parts };
	return { kind: "strong", parts: mark.length > 2 ? [{ kind: "em", parts }] : parts };
}

/** Reads the marks in a line or paragraph. With `open`, more may come, so a mark that is not closed yet counts as closed at the end.
 * @param {string} text  @param {boolean} [open]  @returns {Part[]} */
export function inline(text, open = false) {
	if (open) text = text.replace(/(^|[^*`\\])(?:\*{1,3}|`{1,3}|~{1,2})$/, "$1"); // the last characters may be half a mark
	/** @type {{mark: string, parts: Part[]}[]} the marks that are open, the innermost last */
	const stack = [{ mark: "", parts: [] }];
	/** @type {Map<string, number[]>} the places of each run of `, because a search for each run's end would be quadratic */
	const runs = new Map();
	for (const { 0: run, index } of text.matchAll(TICKS)) {
		const places = runs.get(run);
		if (places) places.push(index);
		else runs.set(run, [index]);
	}
	/** @param {...Part} more */
	const add = (...more) => {
		const { parts } = stack[stack.length - 1];
		for (const part of more) {
			const last = parts[parts.length - 1];
			if (typeof part === "string" && typeof last === "string") parts[parts.length - 1] = last + part;
			else if (part !== "") parts.push(part);
		}
	};
	/** @param {number} depth  @param {boolean} [closed] */
	const leave = (depth, closed) => {
		while (stack.length > depth) {
			const [{ mark, parts }] = stack.splice(-1);
			if (closed && parts.length) add(emphasis(mark, parts));
			else add(mark, ...parts);
		}
	};
	/** @param {string} marks  @param {string} before  @param {string} after */
	const emphasise = (marks, before, after) => {
		const inWord = (/** @type {string} */ c) => marks.length < 2 && /\w/.test(c); // 2*3*4
		let left = marks.length > 3 ? 0 : marks.length;
		if (!left) add(marks);
		while (left && /\S/.test(before) && !inWord(after)) {
			const same = stack.findLastIndex(({ mark }) => mark === marks.slice(0, left));
			const depth = same > 0 ? same : stack.findLastIndex(({ mark }) => mark && marks.startsWith(mark) && mark.length <= left);
			if (depth < 0) break;
			left -= stack[depth].mark.length;
			leave(depth + 1);
			leave(depth, true);
		}
		const rest = marks.slice(0, left);
		if (rest && /\S/.test(after) && !inWord(before) && stack.length <= DEEPEST) stack.push({ mark: rest, parts: [] });
		else add(rest);
	};
	let from = 0;
	for (;;) {
		MARK.lastIndex = from;
		const found = MARK.exec(text);
		if (!found) break;
		const [all, escaped, ticks, marks, label, address] = found;
		add(text.slice(from, found.index));
		from = found.index + all.length;
		if (escaped) add(escaped);
		else if (marks) emphasise(marks, text[found.index - 1] ?? " ", text[from] ?? " ");
		else if (!ticks) add(...inline(label), label && label !== address ? ` (${address})` : label ? "" : address);
		else {
			const places = runs.get(ticks) ?? [];
			while (places[0] < from) places.shift();
			const [end = -1] = places;
			if (end < 0 && !(open && from < text.length)) {
				add(ticks);
				continue;
			}
			const words = text.slice(from, end < 0 ? undefined : end).replaceAll("\n", " ");
			add({ kind: "code", parts: [words.startsWith(" ") && words.endsWith(" ") && words.trim() ? words.slice(1, -1) : words] });
			from = end < 0 ? text.length : end + ticks.length;
		}
	}
	add(text.slice(from));
	leave(1, open);
	return stack[0].parts;
}

/** @param {Part[]} parts  @returns {string} */
const wordsOf = (parts) => parts.map((part) => (typeof part === "string" ? part : wordsOf(part.parts))).join("");

/** Returns the words of a text without the marks, for a screen reader. @param {string} text */
export function spoken(text) {
	const lines = [];
	let [at, inside] = [0, /** @type {Inside} */ ({})];
	for (let found; (found = nextBlock(text, at, inside, true)); ({ end: at, inside } = found)) {
		const { kind, text: words, cells = [words] } = found.block;
		const line = kind === "code" ? words.trimEnd() : cells.map((cell) => wordsOf(inline(cell))).filter(Boolean).join(", ");
		if (line) lines.push(line);
	}
	return lines.join("\n");
}
