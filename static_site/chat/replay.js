// Reads the earlier turns of a conversation from the handler's logs, and draws them.

import { make } from "../base/dom.js";
import { sleep } from "../base/send.js";
import { sentence } from "../base/words.js";
import { chatOf, dispatch, getState } from "../state/store.js";
import { mutates } from "../state/verbs.js";
import { drawingOf, drawnTurn, newFlight, scrollToEnd } from "./drawings.js";
import { endingOf } from "./errors.js";
import { ask, troubleIn } from "./list.js";
import { checkProposal } from "./proposals.js";

const SLICE_MS = 10; // the longest time of drawing at once, so that the page stays responsive
const PAUSES_MS = [1_000, 3_000]; // the pauses before another try
const DRAWN = /** @type {const} */ (["text", "tool", "tool_result", "approval", "result"]);

/** @typedef {import("../state/conversation.js").Chat} Chat */
/** @typedef {import("./list.js").Trouble} Trouble */
/** @typedef {import("./turn.js").Turn} Turn */
/** A turn, as the handler's log has it. @typedef {{turn: string, prompt: string, at: string, tools: string, events: any[]}} PastTurn */
/** @typedef {{session: string|null, id: string, vm: string, left_out: number, cost_usd: number, turn: string|null}} Replayed */

/** Reads the earlier conversation about a VM and draws it. Only one such reading runs at a time. @param {string} vm */
export function readChat(vm) {
	const chat = chatOf(vm);
	const drawing = drawingOf(chat);
	drawing.reading ??= read(vm, chat).finally(() => { drawing.reading = null; });
	return drawing.reading;
}

/** @param {string} vm  @param {Chat} chat */
async function read(vm, chat) {
	const { session = "", cut } = chat; // the handler may never have got the turn
	const signal = newFlight(chat);
	dispatch("log-asked", { vm });
	let found = await replayTalk(session, signal);
	for (const pause of PAUSES_MS) {
		if (found.end || found.trouble?.code || signal.aborted) break;
		await sleep(pause, signal);
		found = await replayTalk(session, signal);
	}
	if (signal.aborted) return;
	const { turns: past, end, trouble } = found;
	if (!end) return giveUp(vm, trouble);
	const { left_out: gone } = end;
	const drawing = drawingOf(chat);
	drawing.box.replaceChildren(...gone ? [make("small", `Earlier questions not shown: ${gone}. They are too old, or too long to load.`)] : []);
	const turns = [];
	for (const each of past) {
		turns.push(await drawPast(chat, each, each.turn === end.turn, signal));
		if (signal.aborted) return;
	}
	const isKnown = turns.some(({ id }) => id === cut?.id);
	const open = turns.find(({ id }) => id === end.turn) ?? (isKnown ? null : cut);
	requestAnimationFrame(() => scrollToEnd(drawing));
	const log = { session: end.session ?? session, id: end.id, cost: end.cost_usd, turns: turns.filter((turn) => turn !== open), cut: open };
	dispatch("log-came", { vm, log });
	checkProposals(vm, chat, past);
}

/** @param {string} vm  @param {Trouble} [trouble] */
function giveUp(vm, { code, message = "" } = {}) {
	const isOver = code === "session-invalid"; // the conversation belongs to another caller, or is too old
	const why = isOver ? "The last conversation on this device belongs to another caller, or is too old" : `The earlier conversation could not be loaded: ${message}`;
	dispatch(isOver ? "log-over" : "log-lost", { vm, notice: sentence(why) });
}

/** @param {Chat} chat  @param {PastTurn} past  @param {boolean} goesOn  @param {AbortSignal} signal */
async function drawPast(chat, { turn: id, prompt, at, tools, events }, goesOn, signal) {
	const turn = { id, prompt, own: tools === "host", began: Date.parse(at) - getState().clockOff };
	drawingOf(chat).turns.delete(id); // this turn is drawn again; a turn that is not in the log stays
	const drawn = drawnTurn(chat, turn);
	let since = 0;
	for (const event of joinTexts(events, goesOn)) {
		if (performance.now() - since > SLICE_MS) { // a long conversation must not stop the page
			await sleep(0);
			if (signal.aborted) break;
			since = performance.now();
		}
		drawEvent(chat, drawn, event, "held");
		if (event.type === "error") drawn.end(endingOf(event));
	}
	drawn.n = events.at(-1)?.n ?? 0;
	return { ...turn, answer: drawn.answer };
}

/** Draws an event, new or from a log. Returns what a tool call does. @param {Chat} chat  @param {Turn} drawn  @param {any} event
 * @param {"open"|"held"} [status] of a proposal */
export function drawEvent({ number: talk }, drawn, event, status = "open") {
	drawn.n = event.n;
	const { type, job, vm, verb, last = "" } = event;
	const words = DRAWN.includes(type) ? drawn[/** @type {typeof DRAWN[number]} */ (type)](event) : "";
	if (type === "approval" && mutates(verb)) dispatch("proposal-came", { job, proposal: { vm, verb, at: drawn.began, last, talk, status } });
	if (type === "done") {
		drawn.done = event;
		if (!event.ok && !drawn.ending) drawn.end("The turn ended without an answer.");
	}
	return words;
}

/** Returns the proposals that are open, newest first. @param {string} vm  @param {Chat} chat  @param {PastTurn[]} turns */
async function checkProposals(vm, { number }, turns) {
	for (const { events } of turns.toReversed()) {
		for (const { type, verb, job } of events) {
			if (type !== "approval" || !mutates(verb)) continue;
			const hasEnded = await checkProposal(job);
			const { number: shown, turn, check } = chatOf(vm);
			if (shown !== number) return;
			if (hasEnded && events === turns.at(-1)?.events && !turn && !check) dispatch("check-due", { vm, check: { job, byHand: true } });
		}
	}
}

/** Returns a whole conversation. If `end` is missing, the conversation did not arrive completely. @param {string} session  @param {AbortSignal} signal
 * @returns {Promise<{turns: PastTurn[], end?: Replayed, trouble?: Trouble}>} */
async function replayTalk(session, signal) {
	/** @type {PastTurn[]} */
	const turns = [];
	const answer = await ask({ session, replay: true }, signal, (line) => {
		if (line.type === "turn") turns.push({ ...line, events: [] });
		else if (!["ping", "replayed"].includes(line.type)) turns.at(-1)?.events.push(line);
	});
	return answer?.type === "replayed" ? { turns, end: answer } : { turns, trouble: troubleIn(answer) };
}

const PIECE = 8_000; // characters that are drawn at once

/** Returns the events of a turn without retracted text. The words between two other events are joined into as few texts as possible.
 * The last words of an unfinished turn stay separate, because they may still be retracted.
 * @param {any[]} events  @param {boolean} goesOn  @returns {any[]} */
export function joinTexts(events, goesOn) {
	const retracted = new Set();
	for (const { type, n, retract } of events) {
		if (type !== "text" || !retract) continue;
		for (const each of events) if (each.type === "text" && each.n >= retract && each.n <= n) retracted.add(each);
	}
	const left = events.filter((each) => !retracted.has(each));
	const lastOther = left.findLastIndex(({ type }) => type !== "text");
	/** @type {any[]} */
	const joined = [];
	left.forEach((event, place) => {
		const before = joined.at(-1);
		if (event.type === "text" && before?.type === "text" && before.text.length < PIECE && !(goesOn && place > lastOther)) before.text += event.text;
		else joined.push({ ...event });
	});
	return joined;
}
