// The parts of a conversation that are not in its state: its place in the page, its drawn turns, and its open request to the handler.

import { make } from "../base/dom.js";
import { chatOf, getState, subscribe } from "../state/store.js";
import { Turn } from "./turn.js";

/** @typedef {import("../state/conversation.js").Chat} Chat */
/** @typedef {{box: HTMLElement, turns: Map<string, Turn>, flight: AbortController|null, reading: Promise<void>|null}} Drawing */

/** By the conversation's number. @type {Map<number, Drawing>} */
const drawings = new Map();

/** @param {Chat} [chat]  @returns {Drawing} */
export function drawingOf({ number } = chatOf()) {
	const known = drawings.get(number) ?? { box: make("div"), turns: new Map(), flight: null, reading: null };
	drawings.set(number, known);
	return known;
}

/** Begins to listen to a turn or a log of a conversation. @param {Chat} chat */
export function newFlight(chat) {
	const flight = new AbortController();
	drawingOf(chat).flight = flight;
	return flight.signal;
}

/** Stops listening. The turn itself continues. @param {Chat} chat */
export function dropDrawing({ number }) {
	drawings.get(number)?.flight?.abort();
	drawings.delete(number);
}

/** Returns the drawing of a turn. A new drawing is added at the end of its conversation. @param {Chat} chat  @param {import("../state/conversation.js").Turn} turn */
export function drawnTurn(chat, turn) {
	const { box, turns } = drawingOf(chat);
	const drawn = turns.get(turn.id) ?? new Turn(turn);
	turns.set(turn.id, drawn);
	box.append(drawn.element);
	return drawn;
}

/** Returns why nothing can be sent now, or an empty text. @param {Chat} chat */
export function whyNot({ turn, log }) {
	const { unlocked, health } = getState();
	if (!unlocked) return "Enter the signing key first.";
	if (turn) return "Claude is working.";
	if (log === "reading") return "The earlier conversation is being loaded.";
	return health.answer?.chat === "none" ? "Chat is not set up here. The power buttons do not need Claude." : "";
}

/** Scrolls the conversation to its end, if it is in the page. @param {Drawing} [drawing] */
export const scrollToEnd = ({ box } = drawingOf()) => box.parentElement?.scrollTo(0, box.parentElement.scrollHeight);

subscribe((state, before) => {
	if (before.unlocked && !state.unlocked) Object.values(before.chats).forEach(dropDrawing);
});
