// Draws what is known, for every change and once a second.

import { renderChat, talk } from "./chat.js";
import { lately, run, whole } from "./run.js";
import {
	$, BUTTONS, MINUTE, PHASES, age, chatDown, clock, following, fullName, grow, health, here, holding, labelOf, list, make,
	mayAnyway, me, minute, obstacle, phaseOf, pointless, pre, proxmoxTrouble, put, sentence, show, sleep, stateOf, text,
	trouble, vmHealth,
} from "./state.js";

const adviceOf = ({ seen, verdict }) => (!seen?.holder && verdict?.last === seen?.last && verdict?.advice) || "";

export function render() {
	const view = here();
	const locked = me.key && view.phase !== "running" && obstacle(view, "reset");
	view.lockedSince = locked ? Math.min(view.lockedSince, Date.now()) : Infinity;
	renderLights(view, talk());
	renderState(view);
	renderOutcome(view, phaseOf(view));
	renderButtons(view);
	renderLately(view);
	renderChat();
	renderByHand(view.byHand);
}

function light(name, wrong, since, right) {
	const item = $(`light-${name}`);
	const [tone, shape, word] = wrong ? ["bad", "✕", since ? `${wrong} since ${minute(since)}` : wrong] : right;
	item.dataset.tone = tone;
	put(item.querySelector("i"), shape);
	put(item.querySelector("b"), word);
}

function renderLights(view, { failure, answered }) {
	const { answer, fails, downSince } = health;
	const whether = (known, more = "") => (known ? ["good", "●", `answering${more}`] : ["warn", "?", `not checked${more}`]);
	light("handler", fails && "not answering", downSince, whether(answer));
	const vm = answer && !fails && vmHealth();
	const what = proxmoxTrouble(view);
	light("proxmox", what && (vm.since ? `${what},` : what), vm?.since, whether(vm && vm.proxmox !== "not-checked"));
	const down = failure.trouble || chatDown();
	const open = answer?.chat_isolated === false ? ", not isolated" : "";
	const ready = answer?.chat === "off" ? ["", "○", "not set up"] : whether(answered, open);
	light("claude", down && `not answering: ${trouble(down)}`, failure.since, ready);
	const { at, how, seen } = view.proven ?? {};
	const old = seen && (fails || Math.abs(Date.now() - seen) > MINUTE) ? `, as of ${age(seen)} ago` : "";
	const config = answer?.config?.replace(/^ok$/, "").replace(/20\S+Z/, clock);
	text({
		config: config && `The handler’s configuration is ${config}. Its log says what to mend.`,
		proven: seen && `${at ? `Last proven ${age(Date.parse(at) - me.clockOff)} ago (${how})` : "Never proven"}${old}.`,
		name: me.vm ? fullName() : "Breakglass",
		"key-word": me.key ? "unlocked" : "locked",
	});
}

function renderState(view) {
	const { seen, note, warnings, verdict } = view;
	const advice = adviceOf(view);
	const [shape, tone, word] = seen ? stateOf(seen.state) : ["?", "", "Not checked yet"];
	const old = seen && Math.abs(Date.now() - seen.at) > MINUTE;
	const off = Math.abs(me.clockOff);
	const skew = off && `This device’s clock is ${age(Date.now() - off)} ${me.clockOff > 0 ? "behind" : "ahead"}; that does no harm.`;
	const away = proxmoxTrouble(view) && "Next: the host’s own console (IPMI).";
	const notes = [view.trouble, away, note, seen?.holder && holding(seen.holder), skew, ...warnings];
	document.title = seen ? `${word} - ${me.vm}` : "Breakglass";
	$("state").dataset.tone = old ? "" : tone;
	text({
		"state-shape": shape,
		"state-word": word,
		"state-age": seen && `checked ${clock(seen.at)}, ${age(seen.at)} ago${old ? "; may be out of date" : ""}`,
		"state-note": notes.filter(Boolean).join(" "),
		"verdict-sentence": sentence(verdict?.sentence),
		"verdict-advice": verdict?.advice && !seen?.holder && `Advised${advice ? "" : " before"}: ${labelOf(verdict.advice)}.`,
		"verdict-from": verdict && `Evidence, from ${verdict.from} at ${clock(verdict.at)}`,
	});
	list($("verdict-lines"), verdict?.evidence);
	show({ verdict });
}

function renderOutcome(view, phase) {
	const [shape, tone, word, cover = ""] = PHASES[phase];
	const down = phase === "disconnected";
	const shown = phase === view.phase ? view : { sentence: down && `since ${minute(health.downSince)}.` };
	const label = labelOf(view.verb);
	const named = (words) => words.replaceAll("{label}", label).replaceAll("{what}", label.toLowerCase());
	const busy = ["running", "checking"].includes(phase);
	const next = Math.max(0, Math.ceil((health.next - Date.now()) / 1000));
	const there = /^https?:\/\/[\w.:[\]/~%-]+$/.exec(shown.url)?.[0];
	if (there) $("there").href = there;
	Object.assign($("outcome").dataset, { tone, phase });
	text({
		"outcome-shape": shape,
		"outcome-word": named(word),
		"outcome-sentence": named(shown.sentence || cover),
		"outcome-timer": down ? `Trying again in ${next} s.` : busy && age(view.since),
		"outcome-hint": shown.hint,
		there,
		anyway: `${label} anyway…`,
	});
	list($("outcome-lines"), shown.lines);
	show({
		"stop-waiting": busy || (phase === "unknown" && view.acting),
		"ask-again": phase === "unknown" && !view.acting,
		"try-now": down,
		see: down,
		there,
		anyway: phase === "refused" && view.offer === $("anyway").value && (mayAnyway(view) || !obstacle(view, view.verb)),
		watch: phase === "busy" ? view.holder : phase === "idle" && view.seen?.holder,
	});
}

function renderButtons(view) {
	const advised = adviceOf(view);
	for (const [verb, button] of Object.entries(BUTTONS)) {
		const blocked = obstacle(view, verb);
		const why = blocked || pointless(view, verb);
		const anyway = why && (!blocked || mayAnyway(view)) ? " Try anyway…" : "";
		const small = button.lastElementChild;
		const hint = (small.hint ??= small.textContent);
		button.ariaDisabled = Boolean(why);
		button.classList.toggle("advised", verb === advised);
		put(small, `${verb === advised ? "Advised. " : ""}${why || hint}${anyway}`);
	}
}

function renderByHand(lines) {
	list($("by-hand-lines"), lines);
	const host = /@(\[[0-9a-f:]+\]|[\w.-]+)/i.exec(lines.join(" "))?.[1];
	$("proxmox").href = `https://${host}:8006/`;
	const recipe = $("recipe");
	recipe.as ??= recipe.textContent;
	text({
		proxmox: `Proxmox: ${$("proxmox").href}`,
		recipe: recipe.as.replace("devvm", /^[a-z][a-z0-9-]*$/.exec(me.vm) ?? "devvm"), // it is pasted into a shell
	});
	show({ proxmox: host, "by-hand-none": !lines.length });
}

// What is there stays, and so does a selection in it.
function fill(box, words) {
	const { drawn } = box;
	if (words === drawn) return;
	box.drawn = words;
	if (drawn && words?.startsWith(drawn)) {
		const follow = following(box);
		grow(box, words.slice(drawn.length));
		return follow();
	}
	box.replaceChildren();
	grow(box, words);
}

const alt = (started) => `The console of ${me.vm} at ${clock(started)}`;

function picture({ screen_png: png, started }) {
	const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
	const src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
	return Object.assign(new Image(), { alt: alt(started), src });
}

let shownPicture;

function renderLately({ output, picture: given, waiting, jobs, jobsTrouble, seen, chain }) {
	show({ "output-box": output.text, screen: given || waiting, lately: jobs });
	fill($("output"), output.text);
	if (shownPicture !== given) $("screen-picture").replaceChildren(...given ? [picture(given)] : []);
	shownPicture = given;
	const since = seen && given?.last !== seen.last ? ", before the last power change" : "";
	text({
		"output-title": output.title,
		copy: "Copy",
		"lately-word": jobsTrouble,
		"lately-chain": chain,
		"screen-words": waiting ? "The console: on its way…" : given && alt(given.started) + since,
	});
	const box = $("lately-jobs");
	const wanted = (jobs ?? []).map(entry);
	wanted.forEach((item, n) => {
		if (box.children[n] !== item) box.insertBefore(item, box.children[n] ?? null); // the others keep focus and place
	});
	while (box.children.length > wanted.length) box.lastChild.remove();
}

function entry(job) {
	const id = `job ${job.id}`;
	let item = $(id);
	if (!item) {
		const title = make("summary", make("span"), " ", make("small"));
		item = make("details", title, make("p"), make("p"), make("p"), make("ul"), make("div"), pre(""));
		item.id = id;
		item.addEventListener("toggle", () => item.open && read(item));
	}
	item.job = job;
	put(item.querySelector("span"), `${labelOf(job.verb)}: ${job.outcome ?? "running"}`);
	put(item.querySelector("small"), `${job.by}, ${age(Date.parse(job.started) - me.clockOff)} ago`);
	return item;
}

const held = (view) => (view.holder ?? view.seen?.holder)?.job;

async function read(item) {
	const view = here();
	const [, facts, why, verdict, lines, screen, output] = item.children;
	while (item.isConnected && item.open && !item.read) {
		if (!facts.firstChild) put(facts, "Asking the host…");
		const job = await whole(view, item.job.id);
		if (!job) return put(facts, "No answer, or the host no longer knows it. Open it again.");
		const began = new Date(job.started).toLocaleString("en-GB");
		put(facts, `Began ${began}, took ${job.seconds} s, ${job.outcome ?? `now at: ${job.stage}`}. Id: ${job.id}`);
		put(why, job.why && `Why: ${job.why}`);
		put(verdict, job.verdict?.sentence);
		list(lines, job.verdict?.evidence);
		if (job.screen_png && !screen.firstChild) screen.append(picture(job));
		fill(output, job.output);
		item.read = job.outcome;
		if (!item.read) await sleep(1e3);
		else if (!item.job.outcome) {
			lately(view);
			if (held(view) === job.id && view === here()) run("status");
		}
	}
}

export async function watch() {
	const view = here();
	await lately(view);
	const item = $(`job ${held(view)}`);
	if (!item) return;
	item.open = true;
	item.firstChild.focus();
}
