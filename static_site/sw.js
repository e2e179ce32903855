// The service worker. It stores the page, so that it opens at once, even while the handler is down.
// Opening shows the stored set of files and renews the set in the background. The next opening shows the new set. It never touches the API.
// docs/internals.md, "The page", has the rules.

/** @typedef {{version: string, files: Record<string, string>}} PageList The handler's list of the page's files, with each file's digest. */
/** @typedef {{text: string, headers: [string, string][]}} PageFile */
/** @typedef {{list: PageList, files: Record<string, PageFile>}} PageSet All files of one version: one entry of the cache. */

const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const HOME = new URL("./", worker.location.href);
const CACHE = `breakglass page ${HOME.pathname}`;
const PATIENCE_MS = 30_000;
const OF_TRANSFER = ["content-encoding", "content-length", "transfer-encoding"];

/** @type {Map<string, PageSet>} For each open page, the set from which it was opened. The map is lost when the browser ends this worker. */
const shownSets = new Map();

// ---- the stored sets, numbered in the order of their arrival

/** @param {number} number */
const addressOf = (number) => new URL(`?set=${number}`, HOME).href;

/** @param {Cache} cache */
async function listNumbers(cache) {
	const requests = await cache.keys();
	const numbers = requests.map(({ url }) => Number(new URL(url).searchParams.get("set")));
	return numbers.sort((a, b) => a - b);
}

/**
 * Returns the set with this number, or null if it is missing or damaged.
 * @param {Cache} cache
 * @param {number | undefined} number
 * @returns {Promise<PageSet | null>}
 */
async function readSet(cache, number) {
	if (number === undefined) return null;
	try {
		const response = await cache.match(addressOf(number));
		return response ? await response.json() : null;
	} catch {
		return null;
	}
}

/**
 * Returns the newest set, and removes the others, because the page that is being opened takes its other files from that set too.
 * @param {string} page
 */
async function openNewestSet(page) {
	const cache = await caches.open(CACHE);
	const numbers = await listNumbers(cache);
	const set = await readSet(cache, numbers.at(-1));
	if (!set) return null;
	shownSets.set(page, set);
	await Promise.all(numbers.slice(0, -1).map((number) => cache.delete(addressOf(number))));
	return set;
}

/**
 * Returns the set from which an open page came. If the browser has restarted this worker, returns the oldest set.
 * @param {string} page
 */
async function findSetOf(page) {
	const shown = shownSets.get(page);
	if (shown) return shown;
	const cache = await caches.open(CACHE);
	const [oldest] = await listNumbers(cache);
	return readSet(cache, oldest);
}

// ---- renewing

/**
 * Fetches a whole file. A proxy's error or login page does not count.
 * @param {string} name
 * @param {RequestCache} mode
 */
async function fetchWhole(name, mode) {
	const signal = AbortSignal.timeout(PATIENCE_MS);
	const response = await fetch(name, { cache: mode, signal, priority: "low" });
	if (response.status !== 200 || response.redirected) throw new Error(`${name}: ${response.status}`);
	const bytes = await response.arrayBuffer();
	return { response, bytes };
}

/** @returns {Promise<PageList>} */
async function fetchList() {
	const { bytes } = await fetchWhole("files.json", "no-cache");
	const list = JSON.parse(new TextDecoder().decode(bytes));
	if (!list.files["./"]) throw new Error("files.json is not a list of the page's files");
	return list;
}

/** @param {ArrayBuffer} bytes */
async function digest(bytes) {
	const sum = await crypto.subtle.digest("SHA-256", bytes);
	return btoa(String.fromCharCode(...new Uint8Array(sum)));
}

/**
 * Fetches a file in the version that has the list's digest.
 * @param {string} name
 * @param {string} wanted
 * @param {RequestCache[]} modes
 * @returns {Promise<PageFile>}
 */
async function fetchFile(name, wanted, modes) {
	for (const mode of modes) {
		const { response, bytes } = await fetchWhole(name, mode);
		if (await digest(bytes) === wanted) {
			const headers = [...response.headers].filter(([header]) => !OF_TRANSFER.includes(header));
			return { text: new TextDecoder().decode(bytes), headers };
		}
	}
	throw new Error(`${name} does not match its digest in files.json`);
}

/**
 * Returns all files of a list. If the page was just loaded for the first time, its files are in the browser's own cache.
 * @param {PageList} list
 * @param {PageSet | null} known
 * @returns {Promise<PageSet>}
 */
async function fetchSet(list, known) {
	/** @type {RequestCache[]} */
	const modes = [known ? "no-cache" : "force-cache", "reload"];
	const reusable = known?.list.version === list.version ? known : null; // another version may have other headers
	const entries = Object.entries(list.files).map(async ([name, wanted]) => {
		const file = reusable?.list.files[name] === wanted && reusable.files[name];
		return [name, file || await fetchFile(name, wanted, modes)];
	});
	return { list, files: Object.fromEntries(await Promise.all(entries)) };
}

/**
 * Stores the handler's set if the set is new. If a part of it can't be stored, as on a full disk, the old set stays.
 * @param {Promise<unknown>} opened Ends when the page that is being opened has its set.
 */
async function renew(opened = Promise.resolve()) {
	const list = await fetchList();
	await opened;
	const cache = await caches.open(CACHE);
	const numbers = await listNumbers(cache);
	const last = numbers.at(-1);
	const known = await readSet(cache, last);
	let isWaiting = numbers.length > 1;
	if (JSON.stringify(known?.list) !== JSON.stringify(list)) {
		const set = await fetchSet(list, known);
		await cache.put(addressOf((last ?? 0) + 1), new Response(JSON.stringify(set)));
		isWaiting = last !== undefined;
	}
	if (isWaiting) await announce(list.version);
}

/**
 * Tells the open pages that the next opening shows a newer page.
 * @param {string} version
 */
async function announce(version) {
	for (const page of await worker.clients.matchAll({ type: "window" })) page.postMessage({ newPage: version });
}

// ---- what the browser asks for

/**
 * Returns a file's name below the page's address, or null for any other address. The API's addresses have no dot.
 * @param {string} url
 */
function nameOf(url) {
	const { origin, pathname } = new URL(url);
	if (origin !== HOME.origin || !pathname.startsWith(HOME.pathname)) return null;
	const name = pathname.slice(HOME.pathname.length);
	if (name === "" || name === "index.html") return "./";
	return name.includes(".") ? name : null;
}

/**
 * @param {FetchEvent} event
 * @param {string} name
 */
async function answer({ request, clientId, resultingClientId }, name) {
	const finding = request.mode === "navigate" ? openNewestSet(resultingClientId) : findSetOf(clientId);
	const set = await finding.catch(() => null);
	const file = set?.files[name];
	return file ? new Response(file.text, { headers: file.headers }) : fetch(request);
}

worker.addEventListener("install", (event) => event.waitUntil(renew().then(() => worker.skipWaiting())));

worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("fetch", (event) => {
	const name = nameOf(event.request.url);
	if (event.request.method !== "GET" || name === null) return;
	const answered = answer(event, name);
	event.respondWith(answered);
	if (event.request.mode === "navigate") event.waitUntil(renew(answered).catch(() => {}));
});

// An installed page can stay open for weeks, so it asks for a newer page whenever it becomes visible.
worker.addEventListener("message", (event) => event.waitUntil(renew().catch(() => {})));
