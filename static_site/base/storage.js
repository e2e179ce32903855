// Stores values on this device, but never a secret as text. Another page of this origin uses other names.

export const HOME = new URL(".", location.href);
export const OWN = `breakglass ${HOME.pathname} `;
export const LOCAL = /^((.+\.)?localhost|127(\.\d+){3}|\[::1\])$/;

/** Whether an iPhone or iPad shows the page in a browser, which deletes the stored values of a site. An iPad may call itself a Mac. */
export function isAppleTab() {
	const { userAgent, maxTouchPoints } = navigator;
	const isApple = /iP(hone|ad|od)/.test(userAgent) || (userAgent.includes("Mac OS") && maxTouchPoints > 1);
	return isApple && !matchMedia("(display-mode: standalone)").matches;
}

/** @param {"local"|"session"} where */
const storageOf = (where) => (where === "local" ? localStorage : sessionStorage);

/** Values that the browser refused to store. This map has them until the page is closed. @type {Map<string, string>} */
const unkept = new Map();

/** Returns the value that is stored under a name, or null. @param {"local"|"session"} where  @param {string} name */
export function recall(where, name) {
	try {
		return JSON.parse(unkept.get(`${where} ${name}`) ?? storageOf(where).getItem(OWN + name) ?? "null");
	} catch {
		return null;
	}
}

/** Stores a value under a name; `null` removes the stored value. @param {"local"|"session"} where  @param {string} name  @param {unknown} value */
export function keep(where, name, value) {
	unkept.delete(`${where} ${name}`);
	try {
		if (value === null) storageOf(where).removeItem(OWN + name);
		else storageOf(where).setItem(OWN + name, JSON.stringify(value));
	} catch { // the store is full or forbidden; while the page stays open, it can still ask for an open outcome
		unkept.set(`${where} ${name}`, JSON.stringify(value));
	}
}

/** Removes all that the page keeps as text. */
export function forgetAll() {
	unkept.clear();
	try {
		for (const storage of [localStorage, sessionStorage]) {
			for (const name of Object.keys(storage)) if (name.startsWith(OWN)) storage.removeItem(name);
		}
	} catch {}
}

/** @template T @param {IDBRequest<T>} request  @returns {Promise<T>} */
const done = (request) => new Promise((resolve, reject) => {
	request.onsuccess = () => resolve(request.result);
	request.onerror = () => reject(request.error);
});

/** Runs one request on the store of the key, a CryptoKey that can't be read out. @template T @param {(store: IDBObjectStore) => IDBRequest<T>} act */
export async function keyStore(act) {
	const opening = indexedDB.open(OWN, 1);
	opening.onupgradeneeded = () => opening.result.createObjectStore("key");
	const database = await done(opening);
	return done(act(database.transaction("key", "readwrite").objectStore("key")));
}
