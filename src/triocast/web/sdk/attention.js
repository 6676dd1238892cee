/** How much of what one peer says is taken at once. */

/** So many messages are taken at once, and as many again in this time. */
const MOST_AT_ONCE = 30;
const MOST_WAITING = 30;
const TIME = 5_000;

/**
 * Each message that is heeded costs the page work, and the line some messages. A peer that says
 * things without end must leave both to the others.
 */
export class Attention {
    #heed;
    #rest;
    #taken = 0;
    #waiting = [];

    /**
     * `heed` takes a message. `rest` is called when there is time for another and none waits; it is
     * told whether one has waited until then.
     */
    constructor(heed, rest) {
        this.#heed = heed;
        this.#rest = rest;
    }

    /** Whether messages wait. */
    get isBehind() {
        return this.#waiting.length > 0;
    }

    /** Heed a message now, or in a while; false if there are too many, and it is passed over. */
    take(message) {
        const hasTime = this.#taken < MOST_AT_ONCE;
        if (hasTime) this.#take(message);
        else if (this.#waiting.length < MOST_WAITING) this.#waiting.push(message);
        else return false;
        return true;
    }

    /** Forget what waits. */
    drop() {
        this.#waiting = [];
    }

    #take(message) {
        this.#taken += 1;
        setTimeout(() => {
            this.#taken -= 1;
            const next = this.#waiting.shift();
            if (next) this.#take(next);
            if (!this.isBehind) this.#rest(next !== undefined);
        }, TIME);
        this.#heed(message);
    }
}
