// What Claude writes, read as plain data: blocks, and the pieces of a line.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inline, isSettled, nextBlock, spoken } from "../../static_site/chat/markdown.js";

// Every block of a whole text.
function blocksOf(text) {
	const blocks = [];
	for (let [at, inside, found] = [0, {}]; (found = nextBlock(text, at, inside, true)); ({ end: at, inside } = found)) blocks.push(found.block);
	return blocks;
}

// The blocks of a text that comes in pieces, each taken as soon as it counts as settled.
function blocksAsTheyCome(pieces) {
	const blocks = [];
	let [text, inside] = ["", {}];
	for (const piece of [...pieces, null]) {
		const ended = piece === null;
		text += piece ?? "";
		for (let found; (found = nextBlock(text, 0, inside, ended)) && (ended || isSettled(text, found.end));) {
			blocks.push(found.block);
			[text, inside] = [text.slice(found.end), found.inside];
		}
	}
	return blocks;
}

const brief = (text) => blocksOf(text).map(({ kind, indent, text: words, cells }) => `${kind}${indent || ""} ${cells ? cells.join("/") : words}`.trim());
const short = (parts) => parts.map((part) => (typeof part === "string" ? part : `<${part.kind}>${short(part.parts)}</>`)).join("");
const marks = (text, open) => short(inline(text, open));

// A text of the marks that mean something, in an order that a seed decides.
const BITS = [
	"\n", "\n", "\n\n", " ", "  ", "    ", "\t", "a", "Word ", "*", "**", "***", "`", "``", "```", "\n```\n", "\n~~~~\n", "~", "~~", "- ", "\n- ", "\n  - ", "\n1. ", "2) ", "# ",
	"\n### ", "|", " | ", "\n| a | b |\n", "|---|\n", "---", "\n---\n", "> ", "\n> ", "[a](http://b)", "[", "](", ")", "\\", "_", "<b>", "&lt;", "\u202e", "\ud83d\ude00", "\0", ":",
];
function randomOf(seed) {
	return () => { // mulberry32
		seed = (seed + 0x6d2b79f5) | 0;
		let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
		t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
	};
}
const textOf = (random, most) => Array.from({ length: 1 + Math.floor(random() * most) }, () => BITS[Math.floor(random() * BITS.length)]).join("");

test("the blocks that Claude writes", () => {
	assert.deepEqual(brief("## Disk\n\nIt waits.\nA reset does not help.\n\n- one\n  more\n- two\n  - inner\n\n3. three\n---\n> said\n> before"), [
		"heading Disk", "text It waits.\nA reset does not help.", "item one\nmore", "item two", "item2 inner", "item three", "rule", "quote said\nbefore",
	]);
	assert.deepEqual(brief("- [x] done\n- [ ] open\n- [y] text\n- [x]text"), ["item ☑ done", "item ☐ open", "item [y] text", "item [x]text"]);
	assert.deepEqual(brief("| a | b \\| c |\n|---|:-:|\n| 1 |\nafter"), ["row a/b | c", "row 1", "text after"]);
	assert.deepEqual(brief("1. Run\n   ```sh\n   zpool status\n     x\n   ```\n2. Look"), ["item Run", "fence3", "code3 zpool status\n  x", "item Look"]);
	assert.deepEqual(brief("````\n```\n**no**\n````\nafter"), ["fence", "code ```\n**no**", "text after"]);
	assert.deepEqual(blocksOf("- a\n\n7) b").map(({ ordered, start }) => [ordered, start]), [[false, 0], [true, 7]]);
});

test("what only looks like a mark stays text", () => {
	for (const text of ["1.5 GB", "-5 °C", "#1 is down", "a\n2026. It", "|x| is 3", "**bold** first", "``` is `a` fence"]) assert.deepEqual(brief(text), [`text ${text}`]);
	for (const text of ["2*3*4", "a * b", "snake_case_name", "__init__", "**", "`", "* *", "[a](b", "a ** b **", "5 > 3 & <b>x</b>", "https://evil.example/"]) assert.equal(marks(text), text);
	assert.equal(marks("\\*a\\* \\`b\\`"), "*a* `b`");
});

test("the pieces of a line", () => {
	assert.equal(marks("**a `b*` c** *d* ***e***"), "<strong>a <code>b*</> c</> <em>d</> <strong><em>e</></>");
	assert.equal(marks("*a **b*** **c\nd**"), "<em>a <strong>b</></> <strong>c\nd</>");
	assert.equal(marks("`` a`b `` ` `"), "<code>a`b</> <code> </>");
	assert.equal(marks("**a *b**"), "<strong>a *b</>");
	assert.equal(marks("~~a **b** c~~ ~d~ e~~"), "<s>a <strong>b</> c</> ~d~ e~~");
	assert.equal(marks("**a ~~b** c~~"), "<strong>a ~~b</> c~~");
});

test("an address stays in sight, whatever the words say", () => {
	assert.equal(marks("[Proxmox](https://evil.example/a_(b)) ![x](javascript:alert(1))"), "Proxmox (https://evil.example/a_(b)) x (javascript:alert(1))");
	assert.equal(marks("[https://a/](https://a/) [**b**](c)"), "https://a/ <strong>b</> (c)");
});

test("what is not closed yet looks as it will, and at the end as it is", () => {
	assert.deepEqual([marks("a **b", true), marks("a **b")], ["a <strong>b</>", "a **b"]);
	assert.deepEqual([marks("a **b*", true), marks("a `b", true), marks("a `b")], ["a <strong>b</>", "a <code>b</>", "a `b"]);
	for (const half of ["a *", "a **", "a `", "a ```", "a ~~"]) assert.equal(marks(half, true), "a ");
	const open = nextBlock("```\nls\n``", 4, { fence: "```" }, false);
	assert.equal(open.block.text, "ls\n"); // the rest may be half a fence
	assert.equal(nextBlock("```\nls\n``", 4, { fence: "```" }, true).block.text, "ls\n``");
	assert.equal(blocksOf("| a | b |")[0].kind, "text");
	assert.equal(nextBlock("| a | b |", 0, {}, false).block.kind, "row");
});

test("a text that comes in pieces is read as the whole is", () => {
	const seed = Date.now();
	const random = randomOf(seed);
	for (let round = 0; round < 1_000; round += 1) {
		const text = textOf(random, 40);
		const pieces = [];
		for (let at = 0, next; at < text.length; at = next) pieces.push(text.slice(at, next = at + 1 + Math.floor(random() * 6)));
		assert.deepEqual(blocksAsTheyCome(pieces), blocksOf(text), `seed ${seed}, round ${round}: ${JSON.stringify(text)}`);
	}
});

test("no mark makes anything but these kinds, and no word is lost", () => {
	const seed = Date.now();
	const random = randomOf(seed);
	const kinds = new Set();
	const collect = (parts, depth = 0) => {
		assert.ok(depth < 24);
		for (const part of parts) {
			if (typeof part === "string") continue;
			kinds.add(part.kind);
			collect(part.parts, depth + 1);
		}
	};
	for (let round = 0; round < 1_000; round += 1) {
		const text = textOf(random, 40);
		const blocks = blocksOf(text);
		for (const { kind, text: words, cells = [] } of blocks) {
			kinds.add(kind);
			for (const line of [words, ...cells]) [true, false].forEach((open) => collect(inline(line, open)));
		}
		const said = blocks.map((block) => (block.kind === "code" ? block.text : [block.text, ...block.cells ?? []].map((line) => short(inline(line))).join(" "))).join("\n");
		for (const word of ["Word", "\ud83d\ude00"]) {
			const count = (where) => where.split(word).length;
			if (!/```|~~~/.test(text)) assert.equal(count(said), count(text), `seed ${seed}, round ${round}: ${JSON.stringify(text)}`); // a fence's language is not shown
		}
	}
	assert.deepEqual([...kinds].sort(), ["code", "em", "fence", "heading", "item", "quote", "row", "rule", "s", "strong", "text"]);
});

test("what is spoken has the words and no marks", () => {
	assert.equal(spoken("## Disk\n\nIt **waits** for `virtio0`.\n\n- one\n\n| a | **b** |\n|---|---|\n| 1 | |\n\n```sh\nls *.log\n```\n---\nSee [it](http://x)."),
		"Disk\nIt waits for virtio0.\none\na, b\n1\nls *.log\nSee it (http://x).");
	assert.equal(spoken(""), "");
});

test("a long block comes in pieces", () => {
	const lines = Array.from({ length: 2_000 }, (_, n) => `${n} of what there is to say\n`).join("");
	for (const [text, kind] of [[lines, "text"], [`- ${lines}`, "text"], [`\`\`\`\n${lines}`, "code"], ["x".repeat(100_000), "text"], [`\`\`\`\n${"x".repeat(100_000)}`, "code"]]) {
		const blocks = blocksOf(text);
		assert.ok(blocks.length > 5 && blocks.every((block) => block.text.length < 21_000), `${blocks.length} ${text.slice(0, 20)}`);
		assert.equal(blocks[3].kind, kind);
		assert.equal(blocks.map((block) => block.text).join("").trim(), text.replace(/^(- |```\n)/, "").trim());
	}
	const [, second, third] = blocksOf(`- ${lines}`);
	assert.deepEqual([second.joined, second.indent, third.joined], [true, 2, true]);
	assert.ok(!/[\ud800-\udbff]$/.test(blocksOf(`a${"\ud83d\ude00".repeat(20_000)}`)[0].text));
});

test("no text takes a time that grows with its square", () => {
	const bits = ["` a ", "**a ", "*a ", "[", "[a](", "> ", "- ", "- a\n", "|", "| a\n", "\\", "(", "#", " ", "a\n", "```\n", "\n"];
	let read = 0;
	for (const bit of bits) {
		for (const { text, cells = [] } of blocksOf(bit.repeat(100_000 / bit.length))) {
			for (const line of [text, ...cells]) [true, false].forEach((open) => inline(line, open));
			read += 1;
		}
	}
	assert.ok(read > bits.length); // a square would take minutes, so the person who runs node gives up before
});
