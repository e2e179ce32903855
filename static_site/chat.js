// The conversation with Claude, one for each VM. A turn goes on at the handler whoever looks; after a drop this asks for
// the rest. A stream without its last line is no answer.

import { newId, post } from "./send.js";
import { BUTTONS, changed, fullName, health, labelOf, me, mutates, store } from "./state.js";
import { $, following, grow, make, minute, pre, show, sleep, text, trouble } from "./words.js";

const RESEND_MS = 60_000;
const RECAP = 100_000; // a body ends at 256 KiB
const CALM = "The power buttons do not need it.";
const chats = new Map();

export function talk() {
	if (!chats.has(me.vm)) chats.set(me.vm, newChat(me.vm));
	return chats.get(me.vm);
}

function newChat(vm) {
	const { session = "", turn = null } = store("session", `chat ${vm}`) ?? {};
	return { vm, session, turns: [], turn: null, pending: turn, box: make("div"), word: "", trouble: "", since: 0,
		notice: "", lost: false, answered: false, flight: null };
}

function begin(chat, id, prompt, body) {
	const turn = new Turn(id, prompt, body);
	chat.box.append(turn.element);
	return turn;
}

// For a reload of this tab.
function remind({ vm, session, turn }) {
	store("session", `chat ${vm}`, { session, turn: turn && { id: turn.id, prompt: turn.prompt } });
}

export function resumeChat() {
	const chat = talk();
	const { pending } = chat;
	chat.pending = null;
	if (pending) follow(chat, begin(chat, pending.id, pending.prompt, null));
}

export function forgetChats() {
	for (const chat of chats.values()) chat.flight?.abort();
	chats.clear();
}

export function send(recap = false) {
	const chat = talk();
	const asked = $("prompt").value.trim();
	if (!asked || whyNot(chat)) return;
	const said = chat.turns.filter((turn) => turn.said).map((turn) => `Operator: ${turn.prompt}\nYou: ${turn.said}`).join("\n\n");
	const prompt = recap ? `The earlier session was lost. Said so far:\n\n${said.slice(-RECAP)}\n\nNow: ${asked}` : asked;
	if (recap) chat.session = "";
	const body = { prompt, vm: chat.vm || undefined, session: chat.session || undefined };
	$("prompt").value = "";
	Object.assign(chat, { notice: "", trouble: "", lost: false });
	const turn = begin(chat, newId(), asked, JSON.stringify(body));
	follow(chat, turn);
	$("transcript").scrollTo(0, chat.box.scrollHeight);
}

// The body starts the turn, or joins it; once anything of it was seen, `attach` is sent, which starts nothing.
async function follow(chat, turn) {
	const flight = (chat.flight = new AbortController());
	Object.assign(chat, { turn, since: Date.now(), word: "Claude is working…" });
	remind(chat);
	changed();
	for (let pause = 1_000, until = Date.now() + RESEND_MS; ; pause = Math.min(2 * pause, 8_000)) {
		const seen = turn.n;
		const attach = { attach: turn.id, after: seen || undefined };
		const [id, body] = seen || !turn.body ? [newId(), JSON.stringify(attach)] : [turn.id, turn.body];
		const answer = await post("chat", id, body, flight.signal, (event) => take(chat, turn, event));
		if (flight.signal.aborted) return;
		if (turn.done) break;
		if (answer?.error?.code && answer.error.code !== "shutting-down") {
			failed(chat, turn, answer.error);
			break;
		}
		if (turn.n > seen) [until, pause] = [Date.now() + RESEND_MS, 1_000];
		if (Date.now() > until) {
			turn.end("Cut off: the connection was lost and this is not the whole answer. Reload to ask for the rest.");
			chat.turn = null;
			return changed();
		}
		say(chat, "The connection was lost; asking for the rest…");
		await sleep(pause, flight.signal);
	}
	Object.assign(chat, { turn: null, word: "" });
	chat.turns.push(turn);
	remind(chat);
	changed();
}

function take(chat, turn, event) {
	if (event.type === "ping" || event.n <= turn.n) return; // seen before the drop
	turn.n = event.n;
	const follow = following($("transcript"));
	if (event.type === "session") {
		chat.session = event.session;
		remind(chat);
	} else if (event.type === "error") failed(chat, turn, event);
	else if (event.type === "tool") say(chat, `Claude is working: running ${turn.tool(event)}`);
	else if (event.type !== "done") turn.take(event);
	else {
		turn.done = true;
		turn.finish(event.ok);
		if (event.ok) Object.assign(chat, { answered: true, trouble: "" });
		say(chat, event.ok ? turn.said || "Claude ended without a word." : chat.notice || "Stopped.");
	}
	follow();
}

function failed(chat, turn, { code, message, hint }) {
	if (code === "cancelled") return turn.end("Stopped. What already runs inside the VM goes on.");
	if (code === "turn-unknown") return turn.end("Cut off: the handler does not know this turn, or no longer.");
	const down = code.startsWith("claude-") || code === "turn-timeout" || code === "chat-not-isolated";
	chat.lost = code === "session-lost" || code === "session-invalid";
	if (down) Object.assign(chat, { trouble: code, since: Date.now(), answered: false });
	const what = `Claude is not answering: ${trouble(code)}, ${minute(Date.now())}.`;
	const rest = down ? CALM : "";
	chat.notice = [chat.lost ? "" : what, message && `${message}.`, hint && `${hint}.`, rest].filter(Boolean).join(" ");
	turn.end(`No answer: ${message || trouble(code)}`);
	if (!turn.said && chat === talk()) $("prompt").value ||= turn.prompt;
}

export async function stopTurn() {
	const chat = talk();
	const { turn } = chat;
	if (!turn) return;
	say(chat, "Stopping…");
	const answer = await post("chat", newId(), JSON.stringify({ cancel: turn.id }), chat.flight.signal);
	if (answer?.cancelled || turn.done) return;
	say(chat, `Not stopped: ${answer?.error?.message ?? "no answer came back"}. Press Stop again.`);
}

// What a screen reader hears; the transcript is silent.
function say(chat, words) {
	chat.word = words;
	if (chat === talk()) text({ "chat-heard": words.slice(0, 4_000) });
	changed();
}

function whyNot(chat) {
	if (!me.key) return "Enter the signing key first.";
	if (chat.turn) return "Claude is working.";
	return health.heard?.chat === "off" ? `Chat is not set up on this handler. ${CALM}` : "";
}

export function renderChat() {
	const chat = talk();
	if ($("transcript").firstChild !== chat.box) $("transcript").replaceChildren(chat.box);
	const why = whyNot(chat);
	text({ "chat-notice": chat.notice || (chat.turn ? "" : why), "chat-word": chat.turn && chat.word.slice(0, 120) });
	$("send").ariaDisabled = String(Boolean(why));
	text({ send: chat.notice && !chat.lost ? "Try again" : "Send" });
	$("stop-turn").ariaDisabled = String(!chat.turn);
	show({ recap: chat.lost && !chat.turn });
}

// One turn as it was said: as text and nothing else.
class Turn {
	n = 0;
	done = false;
	#texts = []; // those that stand
	#tools = new Map();
	#said = null;

	constructor(id, prompt, body) {
		Object.assign(this, { id, prompt, body });
		const asked = make("div", "", "asked");
		grow(asked, prompt);
		this.element = make("article", "", "", make("b", "You"), asked, make("b", "Claude"));
	}

	get said() {
		return this.#texts.map((each) => each.text).join("");
	}

	take({ type, n, retract, ...event }) {
		if (type === "text" && retract) {
			for (const each of this.#texts) if (each.n >= retract) for (const node of each.nodes) node.remove();
			this.#texts = this.#texts.filter((each) => each.n < retract);
		} else if (type === "text") this.#add(n, event.text);
		else if (type === "tool_result") this.#toolEnded(event);
		else if (type === "approval") this.#propose(event);
		else if (type === "result") this.#result(n, event);
	}

	#add(n, words) {
		this.#said ??= this.#put(make("div", "", "said"));
		this.#texts.push({ n, text: words, nodes: grow(this.#said, words) });
	}

	#put(element) {
		this.#said = null;
		this.element.append(element);
		return element;
	}

	tool({ id, name, input }) {
		const what = input?.command ?? `${name} ${JSON.stringify(input)}`;
		this.#tools.set(id, { what, box: this.#put(make("details", "", "tool", make("summary", `◌ running: ${what}`))) });
		return what.slice(0, 100);
	}

	#toolEnded({ id, ok, text, cut }) {
		const { what, box } = this.#tools.get(id) ?? { what: id, box: this.#put(make("details", "", "tool")) };
		box.replaceChildren(make("summary", `${ok ? "✓ ran" : "▲ failed"}: ${what}`), pre(`${text}${cut ? "\n(cut here)" : ""}`));
	}

	// Claude may not change power: this asks a person, whose own signed request is the approval.
	#propose({ verb, vm, job, why }) {
		const known = Object.hasOwn(BUTTONS, verb) && mutates(verb);
		const name = vm === me.vm ? fullName() : vm;
		const card = make("div", "", "box", make("b", known ? `Claude proposes: ${labelOf(verb)} ${name}` : `Claude asked for: ${verb}`),
			make("p", why ? `Why: ${why}` : "It gave no reason."));
		const button = make("button", "Approve…");
		Object.assign(button.dataset, { approve: verb, vm, job, why: `proposed by claude: ${why}`.slice(0, 1_000) });
		if (known) card.append(make("p", "", "row", button));
		this.#put(card);
	}

	#result(n, { ok, text, seconds }) {
		if (ok && text && !this.said) this.#add(n, text);
		this.#put(make("small", `${ok ? "✓" : "▲"} ${Math.round(seconds ?? 0)} s`));
	}

	finish(ok) {
		if (!ok && !this.ending) this.end("It ended without an answer.");
	}

	end(words) {
		this.ending?.remove();
		this.ending = this.#put(make("p", `▲ ${words}`));
	}
}
