import { z } from '@hono/zod-openapi'

/** Pictures that one job works from: as many as OpenAI takes. */
export const MAX_INPUTS = 16
/** One of them: a photo of 40 megapixels as JPEG, a screenshot of any screen as PNG. */
export const MAX_INPUT_BYTES = 20_000_000

/** A picture to work from. */
const jobInput = z
  .strictObject({
    data: z.string().min(1).optional().openapi({
      description:
        'A PNG, JPEG or WebP picture in base 64, plain or as a `data:` URL. Addresses are refused: nothing is fetched on behalf of a caller.',
    }),
    job: z
      .string()
      .regex(/^job_\w{1,60}$/, 'must be the id of a job')
      .optional()
      .openapi({
        description:
          'In place of `data`: a job of the same organisation whose picture is copied, so that deleting that job does not touch this one.',
      }),
    index: z
      .int()
      .min(0)
      .optional()
      .openapi({ description: 'With `job`: which of its pictures; by default the first.' }),
  })
  .refine(
    ({ data, job }) => (data === undefined) !== (job === undefined),
    'must have either data or job',
  )
  .refine(({ job, index }) => index === undefined || job !== undefined, {
    path: ['index'],
    message: 'goes with job',
  })
  .openapi('JobInput')
export type JobInput = z.output<typeof jobInput>

/** The pictures that a new job works from. */
export const jobInputs = z.array(jobInput).min(1).max(MAX_INPUTS).openapi({
  description:
    'Pictures to work from, in order. They are kept until the job is over, at most two days.',
})

/** A picture that a job works from; its bytes are not handed out. */
export const wireInput = z
  .strictObject({
    index: z.int(),
    sha256: z.string(),
    size_bytes: z.int(),
    content_type: z.string(),
    width: z.int(),
    height: z.int(),
  })
  .openapi('JobInputInfo')
