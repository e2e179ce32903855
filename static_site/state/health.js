// Whether anything answers at this page's address, asked without a key.

import { recall } from "../base/storage.js";
import { vmHealth } from "./rules.js";
import { dispatch, getState, takeClock, viewOf } from "./store.js";

const EVERY_MS = 10_000;
const SLOW_MS = 2_300;
/** A person must learn within three seconds after the page has opened that nothing answers. */
const SAID_BY_MS = 2_600;
/** The least time that an answer gets, because a line may be bad. */
const LEAST_MS = 1_500;
const LATE_MS = 8_000;

/** @type {ReturnType<typeof setTimeout>|undefined} */
let timer;

/** Returns how long an answer may take before the page says that nothing answers. */
function patience() {
	const left = SAID_BY_MS - performance.now();
	return left > 0 ? Math.min(SLOW_MS, Math.max(LEAST_MS, left)) : SLOW_MS;
}

let isFirst = true;
let isMeasured = false;

/** Compares this device's clock with the handler's, once for a page. A difference that the answer's delay explains counts as none.
 * @param {string} time in whole seconds  @param {number} sent the earliest time at which the request may have been sent */
function measureClock(time, sent) {
	if (isMeasured || !(isMeasured = Boolean(time))) return;
	const least = Date.parse(time) - Date.now();
	const most = Date.parse(time) + 1_000 - sent;
	takeClock(least <= 0 && most >= 0 ? 0 : (least + most) / 2);
}

/** Asks now, and then repeatedly. */
export async function pollHealth() {
	clearTimeout(timer);
	const sent = Date.now() - (isFirst ? performance.now() : 0); // the browser sends the first request before this script runs
	isFirst = false;
	const slow = setTimeout(() => dispatch("health-slow"), patience());
	let wait = EVERY_MS;
	try {
		const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(LATE_MS) });
		const answer = await response.json();
		measureClock(answer.time, sent);
		dispatch("names-came", { vms: answer.vms, choice: recall("local", "vm") });
		dispatch("health-came", { answer, next: Date.now() + wait });
		takeAllProven(answer);
	} catch {
		wait = Math.min(1_000 * 2 ** (getState().health.fails + 1), 30_000);
		dispatch("health-lost", { next: Date.now() + wait });
	} finally {
		clearTimeout(slow);
	}
	clearTimeout(timer);
	timer = setTimeout(pollHealth, wait);
}

/** Takes over the proofs of all hosts. The VMs of a host are known only if there is a single host. @param {any} answer */
function takeAllProven({ hosts, vms }) {
	const [host, more] = Object.values(hosts);
	if (!more) for (const { name } of vms) takeProven(name, host?.proven);
}

/** Notes when a rescue over this connection was last proven. `null` means "never", but only from a host agent that records proofs.
 * @param {string} vm  @param {{at: string, how: string}|null|undefined} proven */
export function takeProven(vm, proven) {
	if (!proven && (proven === undefined || vmHealth(getState(), vm)?.proxmox !== "answering")) return;
	viewOf(vm);
	dispatch("proven-heard", { vm, proven: { at: proven?.at, how: proven?.how, seen: Date.now() } });
}
