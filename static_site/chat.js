// The conversation with Claude, one for each VM. A stream without its last line is no answer.

import { newId, post, young } from "./send.js";
import {
	$, changed, chatDown, following, fullName, grow, health, here, labelOf, make, me, minute, mutates, pre, put,
	sentence, show, sleep, store, text, trouble,
} from "./state.js";

const RECAP = 40_000; // characters; a body ends at 256 KiB
const CALM = "The power buttons do not need it.";
const DRAWN = ["text", "tool_result", "approval", "result"];
let shown;

export const talk = () => (here().chat ??= newChat(here()));

function newChat(view) {
	const { session, turn } = store("session", `chat ${view.vm}`) ?? {};
	// failure: {notice, lost, and where claude is down: trouble, since}
	const cut = turn && new Turn(turn.id, turn.prompt);
	return { view, session, turns: [], cut, box: make("div"), draft: "", failure: {} };
}

function remind({ view, session, turn }) {
	store("session", `chat ${view.vm}`, { session, turn: turn && { id: turn.id, prompt: turn.prompt } });
}

export function resumeChat() {
	const { cut } = talk();
	if (cut && !cut.body) askAgain();
}

export function send(recap) {
	const chat = talk();
	const question = $("prompt").value.trim() || (recap && "Go on.");
	if (!question || whyNot(chat)) return;
	const earlier = chat.turns.filter((turn) => turn.answer).map((turn) => `Operator: ${turn.prompt}\nYou: ${turn.answer}`).join("\n\n");
	const prompt = recap ? `The earlier session was lost. Said so far:\n\n${earlier.slice(-RECAP)}\n\nNow: ${question}` : question;
	if (recap) chat.session = undefined;
	const body = { prompt, vm: chat.view.vm || undefined, session: chat.session };
	$("prompt").value = "";
	chat.failure = {};
	follow(chat, Object.assign(new Turn(newId(), question, JSON.stringify(body)), { recap }));
	$("transcript").scrollTo(0, chat.box.scrollHeight);
}

export function askAgain() {
	const chat = talk();
	if (chat.cut && !chat.turn) follow(chat, chat.cut);
}

// The body starts the turn or joins it; once anything of it was seen, `attach` is sent, which starts nothing.
async function follow(chat, turn) {
	turn.end();
	chat.box.append(turn.element);
	const flight = (chat.flight = new AbortController());
	Object.assign(chat, { turn, cut: null, word: "Claude is working…" });
	remind(chat);
	changed();
	turn.at = Date.now();
	for (let pause = 1_000; ; pause = Math.min(2 * pause, 8_000)) {
		const seen = turn.n;
		const attach = JSON.stringify({ attach: turn.id, after: seen || undefined, session: chat.session });
		const [id, body] = seen || !turn.body ? [newId(), attach] : [turn.id, turn.body];
		const answer = await post("chat", id, body, flight.signal, (event) => take(chat, turn, event));
		if (flight.signal.aborted) return;
		if (turn.done) break;
		const error = answer?.error;
		if (error?.code && error.code !== "shutting-down") {
			failed(chat, turn, error);
			break;
		}
		if (turn.n > seen) pause = 1_000;
		if (!young(turn)) {
			turn.end("Cut off: the connection was lost; this is not the whole answer.");
			Object.assign(chat, { turn: null, cut: turn });
			return changed();
		}
		say(chat, "The connection was lost; asking for the rest…");
		await sleep(pause, flight.signal);
	}
	chat.turn = null;
	chat.turns.push(turn);
	remind(chat);
	changed();
}

function take(chat, turn, event) {
	if (event.type === "ping" || event.n <= turn.n) return; // seen before the drop
	Object.assign(turn, { n: event.n, at: Date.now() });
	const follow = following($("transcript"));
	if (event.type === "session") {
		chat.session = event.session;
		remind(chat);
	} else if (event.type === "error") failed(chat, turn, event);
	else if (event.type === "tool") say(chat, `Claude is working: running ${turn.tool(event)}`);
	else if (DRAWN.includes(event.type)) turn[event.type](event);
	else if (event.type === "done") {
		turn.done = true;
		if (!event.ok && !turn.ending) turn.end("It ended without an answer.");
		if (event.ok) Object.assign(chat, { answered: true, failure: {} });
		say(chat, event.ok ? turn.answer || "Claude ended without an answer." : chat.failure.notice || "Stopped.");
	}
	follow();
}

function failed(chat, turn, { code, message, hint }) {
	if (code === "cancelled") return turn.end("Stopped. Commands inside the VM may still run.");
	if (code === "turn-unknown") return turn.end("Cut off: the handler no longer has this turn.");
	const down = /^claude-|^turn-timeout$|^chat-not-isolated$/.test(code);
	const words = message || trouble(code);
	const when = /until [\d:]+|exit \d+|signal \d+/.exec(words)?.[0];
	const what = down ? notAnswering(`${trouble(code)}${when ? ` (${when})` : ""}, ${minute()}`) : sentence(words);
	const next = sentence(hint);
	const notice = [what, next, down && !/power/.test(hint) && CALM].filter(Boolean).join(" ");
	chat.failure = { notice, trouble: down && code, lost: turn.recap || /^session-(lost|invalid|elsewhere)$/.test(code), since: down && Date.now() };
	chat.answered &&= !down;
	turn.end(`No answer: ${words}`);
	if (turn.answer) return;
	if (chat === talk()) $("prompt").value ||= turn.prompt;
	else chat.draft ||= turn.prompt;
}

export async function stopTurn() {
	const chat = talk();
	const { turn, flight } = chat;
	if (!turn) return;
	say(chat, "Stopping…");
	for (;;) {
		const { n } = turn;
		const answer = await post("chat", newId(), JSON.stringify({ cancel: turn.id, session: chat.session }), flight.signal);
		if (answer?.cancelled || chat.turn !== turn) return;
		const { code, message = "no answer came back" } = answer?.error ?? {};
		if (code !== "turn-unknown" || n) return say(chat, `Not stopped: ${message}. Press Stop again.`);
		await sleep(500, flight.signal); // the turn is still on its way there
	}
}

// What a screen reader hears; the transcript is silent.
function say(chat, words) {
	chat.word = words;
	if (chat === talk()) text({ "chat-live": words.slice(0, 4_000) });
	changed();
}

function whyNot(chat) {
	if (!me.key) return "Enter the signing key first.";
	if (chat.turn) return "Claude is working.";
	return health.answer?.chat === "off" ? `Chat is not set up on this handler. ${CALM}` : "";
}

const notAnswering = (why) => `Claude is not answering: ${why}.`;

export function renderChat() {
	const chat = talk();
	if (chat !== shown) {
		if (shown) shown.draft = $("prompt").value;
		$("prompt").value = chat.draft;
		$("transcript").replaceChildren(chat.box);
		shown = chat;
	}
	const why = whyNot(chat);
	const down = chatDown() && `${notAnswering(trouble(chatDown()))} ${CALM}`;
	const { notice, lost } = chat.failure;
	text({
		"chat-notice": notice || (chat.turn ? "" : why || down),
		"chat-word": chat.turn && chat.word.slice(0, 120),
		send: notice && !lost ? "Try again" : "Send",
	});
	$("send").ariaDisabled = Boolean(why);
	$("stop-turn").ariaDisabled = !chat.turn;
	show({ recap: lost && !chat.turn, "ask-rest": me.key && chat.cut });
}

const proposals = new Map(); // their buttons, by id

// Why it can't be pressed, or how it ended: an id that is spent acts no more.
export function noteProposal(id, words, spent) {
	const button = proposals.get(id);
	if (!button) return;
	put(button.lastChild, words);
	if (!spent) return;
	delete button.dataset.approve;
	button.ariaDisabled = true;
}

class Turn {
	n = 0;
	#texts = [];
	#tools = new Map();
	#box = null;

	constructor(id, prompt, body) {
		Object.assign(this, { id, prompt, body });
		const box = make("div.prompt");
		grow(box, prompt);
		this.element = make("article", make("b", "You"), box, make("b", "Claude"));
	}

	get answer() {
		return this.#texts.map((each) => each.text).join("");
	}

	text({ n, text, retract }) {
		if (retract) {
			for (const { box } of this.#texts) box.replaceChildren();
			this.#texts = this.#texts.filter((each) => each.n < retract);
			for (const each of this.#texts) grow(each.box, each.text);
		} else {
			const box = (this.#box ??= this.#put(make("div.answer")));
			this.#texts.push({ n, text, box });
			grow(box, text);
		}
	}

	#put(element) {
		this.#box = null;
		this.element.append(element);
		return element;
	}

	tool({ id, name, input }) {
		const what = input?.command ?? `${name} ${JSON.stringify(input)}`;
		this.#tools.set(id, { what, box: this.#put(make("details.tool", make("summary", `◌ running: ${what}`))) });
		return what.slice(0, 100);
	}

	tool_result({ id, ok, text, cut }) {
		const { what, box } = this.#tools.get(id) ?? { what: id, box: this.#put(make("details.tool")) };
		const title = make("summary", `${ok ? "✓ ran" : "▲ failed"}: ${what}`);
		box.replaceChildren(title, pre(`${text}${cut ? "\n(cut here)" : ""}`));
	}

	// A person's own signed request is the approval.
	approval({ verb, vm, job, why }) {
		const known = mutates(verb);
		const card = make("div.box", make("b", known ? `Claude proposes: ${labelOf(verb)} ${fullName(vm)}` : `Claude asked for: ${verb}`),
			make("p", why ? `Why: ${why}` : "It gave no reason."));
		const button = make("button", "Approve…", make("small"));
		Object.assign(button.dataset, { approve: verb, vm, job, why: `proposed by claude: ${why}`.slice(0, 1_000) });
		if (known) card.append(make("p.row", button));
		proposals.set(job, button);
		this.#put(card);
	}

	result({ n, ok, text, seconds }) {
		if (ok && text && !this.answer) this.text({ n, text });
		this.#put(make("small", `${ok ? "✓" : "▲"} ${Math.round(seconds ?? 0)} s`));
	}

	end(words) {
		this.ending?.remove();
		this.ending = words && make("p", `▲ ${words}`);
		if (words) this.element.append(this.ending);
	}
}
