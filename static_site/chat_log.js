// What was said before in a conversation, read from the handler's logs and drawn.

import { endingOf } from "./chat_errors.js";
import { changed, isCurrent, remind, scrollToEnd } from "./chats.js";
import { make } from "./dom.js";
import { addProposal, checkProposal } from "./proposals.js";
import { sleep } from "./send.js";
import { dispatch, getState } from "./store.js";
import { joinTexts, replayTalk } from "./talks.js";
import { Turn } from "./turn.js";
import { mutates } from "./verbs.js";
import { sentence } from "./words.js";

const SLICE_MS = 10; // of drawing, then the page has its turn
const PAUSES_MS = [1_000, 3_000]; // before another try
const DRAWN = /** @type {const} */ (["text", "tool", "tool_result", "approval", "result"]);

/** @typedef {import("./chats.js").Chat} Chat */
/** @typedef {import("./talks.js").PastTurn} PastTurn */

/** @type {WeakMap<Chat, Promise<void>>} */
const underWay = new WeakMap();

/** Reads what was said, and draws it. One reading at a time. @param {Chat} chat */
export function readChat(chat) {
	const reading = underWay.get(chat) ?? read(chat).finally(() => underWay.delete(chat));
	underWay.set(chat, reading);
	return reading;
}

/** @param {Chat} chat */
async function read(chat) {
	const { session = "" } = chat;
	const flight = new AbortController();
	const cut = chat.cut; // it may never have arrived
	Object.assign(chat, { log: "reading", flight, failure: {} });
	changed(chat);
	let found = await replayTalk(session, flight.signal);
	for (const pause of PAUSES_MS) {
		if (found.end || found.trouble?.code || flight.signal.aborted) break;
		await sleep(pause, flight.signal);
		found = await replayTalk(session, flight.signal);
	}
	if (flight.signal.aborted) return;
	const { turns, end, trouble } = found;
	if (!end) return giveUp(chat, trouble);
	Object.assign(chat, { session: end.session ?? session, id: end.id, turns: [], cost: 0, cut: null });
	const { left_out: gone } = end;
	chat.box.replaceChildren(...gone ? [make("small", `Earlier questions not shown: ${gone}. They are too old, or too long to load.`)] : []);
	for (const past of turns) {
		const turn = await drawTurn(chat, past, past.turn === end.turn, flight.signal);
		if (flight.signal.aborted) return;
		if (past.turn === end.turn) chat.cut = turn;
		else chat.turns.push(turn);
	}
	const known = turns.some(({ turn }) => turn === cut?.id);
	Object.assign(chat, { log: "read", cost: end.cost_usd, cut: chat.cut ?? (known ? null : cut) });
	remind(chat);
	requestAnimationFrame(() => scrollToEnd(chat));
	dispatch("chat-read", { vm: chat.vm });
	checkProposals(chat, turns);
}

/** @param {Chat} chat  @param {import("./talks.js").Trouble} [trouble] */
function giveUp(chat, { code, message = "" } = {}) {
	const isOver = code === "session-invalid"; // of another caller, or too old
	const why = isOver ? "The last conversation on this device was another caller’s, or is too old" : `What was said before could not be loaded: ${message}`;
	Object.assign(chat, { log: isOver ? "read" : "failed", failure: { notice: sentence(why) } });
	if (isOver) Object.assign(chat, { session: undefined, id: undefined, cut: null });
	remind(chat);
	changed(chat);
}

/** @param {Chat} chat  @param {PastTurn} past  @param {boolean} goesOn  @param {AbortSignal} signal */
async function drawTurn(chat, { turn: id, prompt, at, tools, events }, goesOn, signal) {
	const turn = new Turn(id, prompt, undefined, tools === "host");
	Object.assign(turn, { isReplay: true, began: Date.parse(at) - getState().clockOff });
	chat.box.append(turn.element);
	let since = 0;
	for (const event of joinTexts(events, goesOn)) {
		if (performance.now() - since > SLICE_MS) { // a long conversation must not stop the page
			await sleep(0);
			if (signal.aborted) break;
			since = performance.now();
		}
		drawEvent(chat, turn, event);
		if (event.type === "error") turn.end(endingOf(event));
	}
	turn.n = events.at(-1)?.n ?? 0;
	turn.isReplay = false; // what still comes, comes now
	return turn;
}

/** Draws what came, now or from a log. Returns what a tool does. @param {Chat} chat  @param {Turn} turn  @param {any} event */
export function drawEvent(chat, turn, event) {
	turn.n = event.n;
	const { type, job, vm, verb } = event;
	if (type === "approval" && mutates(verb)) addProposal(job, { vm, verb, at: turn.began, isOpen: !turn.isReplay, talk: chat });
	if (type === "result") chat.cost += event.cost_usd ?? 0;
	if (type === "done") {
		turn.done = true;
		if (!event.ok && !turn.ending) turn.end("It ended without an answer.");
	}
	return DRAWN.includes(type) ? turn[/** @type {typeof DRAWN[number]} */ (type)](event) : "";
}

/** Which proposals are open, the newest first. @param {Chat} chat  @param {PastTurn[]} turns */
async function checkProposals(chat, turns) {
	for (const { events } of turns.toReversed()) {
		for (const { type, verb, job } of events) {
			if (type !== "approval" || !mutates(verb)) continue;
			const hasEnded = await checkProposal(job);
			if (!isCurrent(chat)) return;
			if (!hasEnded || events !== turns.at(-1)?.events || chat.turn || chat.check) continue;
			chat.check = { job, byHand: true };
			changed(chat);
		}
	}
}
