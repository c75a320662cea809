// Browsers start no worker from a page on disk. There, this runs the search's worker in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe")
    #loaded

    constructor(url) {
      super()
      this.#frame.hidden = true
      document.body.append(this.#frame)
      const worker = this.#frame.contentWindow
      worker.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.#loaded = new Promise((resolve, reject) => {
        const script = worker.document.createElement("script")
        Object.assign(script, { src: url, onload: resolve, onerror: reject })
        worker.document.body.append(script)
      })
    }

    async postMessage(data) {
      await this.#loaded
      this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    terminate() {
      this.#frame.remove()
    }
  }
}
