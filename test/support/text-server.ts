import type { IncomingMessage, ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { quotedTexts } from '../../db/text-words.ts'
import { sendJson, startImageServer } from './image-server.ts'
import type { ImageServer } from './image-server.ts'
import { drawTexts } from './text-pictures.ts'
import type { FontName } from './text-pictures.ts'

/** How one text is spelled in the picture of this seed. */
export type Speller = (text: string, seed: number) => string

/** The image server whose pictures show the quoted texts of their prompts, spelled as the speller says. */
export async function startTextServer(
  spell: Speller = (given) => given,
  options: { sizePx?: number } = {},
): Promise<ImageServer> {
  const server = await startImageServer()
  const draw = async (response: ServerResponse, request: IncomingMessage) => {
    const body = JSON.parse(await text(request)) as { prompt: string; size: string; seed: number }
    server.asked.push(body)
    const [width = 0, height = 0] = body.size.split('x').map(Number)
    const shown = quotedTexts(body.prompt).map((given) => spell(given, body.seed))
    const drawn = shown
      .filter((given) => given !== '')
      .map((given) => ({ text: given, font: fontOf(given), sizePx: options.sizePx ?? 80 }))
    const file = await drawTexts(drawn, { width, height })
    sendJson(response, 200, {
      created: 1,
      data: [{ b64_json: Buffer.from(file).toString('base64') }],
    })
  }
  server.instead.set('/v1/images/generations', (response, request) => {
    void draw(response, request).catch((error: unknown) =>
      sendJson(response, 500, { error: String(error) }),
    )
  })
  return server
}

function fontOf(given: string): FontName {
  return /\p{Script=Han}/u.test(given) ? 'chinese-serif' : 'sans-bold'
}
