// Warns before the session ends, and offers the login after it. An app includes it with one line:
//   <script src="/.doorward/session.js" defer></script>
// Each change is a cancelable event "doorward:session" on the document, with `state` ("active", "ending" or
// "ended"), `seconds` and `login` in its detail. The event "doorward:check" requests a check.
{
  const WARNING_SECONDS = 120;
  const LONGEST_WAIT_SECONDS = 300;
  let timer;
  let state = "active";
  let longest = 0;
  let banner;

  const check = async () => {
    clearTimeout(timer);
    let wait = 30;
    try {
      const response = await fetch("/.doorward/session", { cache: "no-store" });
      if (response.ok) {
        wait = report(await response.json());
      } else if (response.status === 401) {
        const { reason, login } = await response.json();
        // A visitor of a public page has no session to lose.
        if (longest > 0 || reason !== "no-session") announce("ended", 0, login);
      }
    } catch {
      // Without a response, nothing is known about the session.
    }
    // A hidden page checks when it is shown.
    if (!document.hidden) timer = setTimeout(check, wait * 1000);
  };

  // Returns the seconds until the next check.
  const report = ({ idle_seconds: idle, absolute_seconds: absolute }) => {
    const left = Math.min(idle, absolute);
    longest = Math.max(longest, left);
    const warning = Math.min(WARNING_SECONDS, longest / 2);
    const isEnding = left <= warning;
    announce(isEnding ? "ending" : "active", left, "", idle < absolute);
    return isEnding ? 5 : Math.min(Math.max(left - warning, 5), LONGEST_WAIT_SECONDS);
  };

  const announce = (next, seconds, login, canStay) => {
    if (next === state && next !== "ending") return;
    state = next;
    const detail = { state, seconds, login };
    const event = new CustomEvent("doorward:session", { cancelable: true, detail });
    banner?.remove();
    if (document.dispatchEvent(event) && state !== "active") show(seconds, login, canStay);
  };

  const show = (seconds, login, canStay) => {
    banner = document.createElement("div");
    const root = banner.attachShadow({ mode: "open" });
    const style = new CSSStyleSheet();
    style.replaceSync(`
      p { position: fixed; inset: auto 1rem 1rem; z-index: 2147483647; margin: 0 auto; padding: 1rem;
          max-width: 36rem; font: 1rem/1.4 system-ui, sans-serif; color: #111; background: #ffe08a;
          border: 2px solid #7a5b00; border-radius: .5rem; }
      a, button { display: inline-block; margin-left: 1rem; padding: .2rem .6rem; font: inherit; color: #111; background: #fff;
                  border: 1px solid #7a5b00; border-radius: .3rem; }`);
    root.adoptedStyleSheets = [style];
    const text = document.createElement("p");
    text.setAttribute("role", state === "ended" ? "alert" : "status");
    text.textContent = state === "ended" ? "You are logged out. Changes here are not saved." : warning(seconds);
    const action = state === "ended" ? loginLink(login) : canStay && stayButton();
    if (action) text.append(action);
    root.append(text);
    document.body.append(banner);
  };

  const warning = (seconds) => {
    const left = seconds > 90 ? `${Math.round(seconds / 60)} minutes` : `${seconds} seconds`;
    return `You will be logged out in ${left}. Save your work.`;
  };

  // In a new tab, so that this page keeps its content. After the login, it continues.
  const loginLink = (login) => {
    const link = document.createElement("a");
    Object.assign(link, { href: login, target: "_blank", rel: "noopener", textContent: "Log in in a new tab" });
    return link;
  };

  const stayButton = () => {
    const button = document.createElement("button");
    button.textContent = "Stay logged in";
    button.addEventListener("click", async () => {
      // This page counts as activity, unlike the check.
      await fetch("/.doorward/sessions", { method: "HEAD" }).catch(() => {});
      check();
    });
    return button;
  };

  document.addEventListener("doorward:check", check);
  document.addEventListener("visibilitychange", () => document.hidden || check());
  check();
}
