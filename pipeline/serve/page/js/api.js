// Questions out, answers in; acts with their request id; the ledger as it grows.

const KEY = "tidemark-token";
const OF = "v1";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let signIn = async () => null;
// Who asks for a token when one is needed: a function that promises one, or null.
export const onSignIn = (ask) => { signIn = ask; };

export const forget = () => sessionStorage.removeItem(KEY);

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

let asking = null;
async function askForToken() {
  asking ??= signIn().finally(() => { asking = null; });
  const token = await asking;
  if (token) sessionStorage.setItem(KEY, token);
  return Boolean(token);
}

async function send(path, options = {}) {
  const response = await fetch(`${OF}/${path}`, { ...options, headers: headers(options.headers), redirect: "error" });
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    if (await askForToken()) return send(path, options);
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

const query = (given) => {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    for (const each of [value].flat()) if (each !== null && each !== undefined) found.append(name, each);
  }
  return found.size ? `?${found}` : "";
};

export const path = (...parts) => parts.map(encodeURIComponent).join("/");

export async function get(where, given = {}, options = {}) {
  return (await send(where + query(given), options)).json();
}

// Every item of a collection up to `most`, newest first.
export async function newest(where, most = 200, given = {}) {
  const items = [];
  let cursor = null;
  do {
    const page = await get(where, { ...given, newest_first: true, limit: Math.min(1000, most - items.length), cursor });
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return items;
}

export async function act(where, said) {
  const response = await send(where, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) });
  return response.json();
}

export async function blob(where) {
  return (await send(where)).blob();
}

// Server-sent events through fetch, which can show a token; comes back behind the last one seen.
export async function listen({ entry, state }) {
  let last = null, pause = 1000;
  for (;;) {
    try {
      last ??= String((await newest("ledger", 1))[0]?.id ?? 0);
      const response = await send("events", { headers: { Accept: "text/event-stream", "Last-Event-ID": last } });
      state("live");
      pause = 1000;
      for await (const event of eventsOf(response.body)) {
        last = event.id ?? last;
        entry(JSON.parse(event.data));
      }
    } catch {
      state("away");
      pause = Math.min(pause * 2, 15000);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const block of whole) {
      const event = {};
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
      }
      if (event.data !== undefined) yield event;
    }
  }
}
