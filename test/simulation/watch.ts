import type { Db } from '../../db/client.ts'
import type { World } from './world.ts'

/**
 * Notes down, beside the product and in the same transactions, whose a job was at the moments that matter. That a
 * picture was recorded for a worker that had lost the job, or a job ended over one that was alive, costs money only
 * now and then; as a rule of its own it is seen each time.
 */
export async function installWatch(db: Db): Promise<void> {
  await db.sql.unsafe(`
    create schema watch;
    create table watch.recorded (job_id text, sha256 text, owner text);
    create table watch.ended (job_id text, owner text);
    create function watch.note_picture() returns trigger language plpgsql as $$
      begin
        insert into watch.recorded select new.job_id, new.sha256, worker_id from public.job where id = new.job_id;
        return null;
      end $$;
    create function watch.note_end() returns trigger language plpgsql as $$
      begin
        insert into watch.ended values (new.id, old.worker_id);
        return null;
      end $$;
    create trigger watch_picture after insert on public.job_output
      for each row execute function watch.note_picture();
    create trigger watch_end after update on public.job
      for each row when (old.finished_at is null and new.finished_at is not null and old.state = 'running'
                         and old.lease_until > clock_timestamp())
      execute function watch.note_end();`)
}

/** One sentence for each time that somebody acted on a job that was another's. */
export async function checkWatch(world: World): Promise<string[]> {
  const { makers, enders, queued } = world.journal
  const { sql } = world.direct
  const recorded = await sql<{ jobId: string; sha256: string; owner: string }[]>`
    select job_id as "jobId", sha256, owner from watch.recorded`
  const ended = await sql<{ jobId: string; owner: string }[]>`
    select job_id as "jobId", owner from watch.ended`
  const sent = await sql<{ jobId: string; count: bigint }[]>`
    select payload->>'job_id' as "jobId", count(*) from outbox
     where topic = 'job.dispatch' and done_at is not null group by 1`
  return [
    ...recorded
      .filter(({ sha256, owner }) => makers.get(sha256) !== owner)
      .map(
        ({ jobId, sha256, owner }) =>
          `a picture of ${makers.get(sha256)} was recorded for job ${jobId}, which was ${owner}'s`,
      ),
    ...ended
      .filter(({ jobId, owner }) => !enders.get(jobId)?.has(owner))
      .map(({ jobId, owner }) => `job ${jobId} was ended over ${owner}, which was alive`),
    ...sent
      .filter(({ jobId, count }) => count > (queued.get(jobId) ?? 0n))
      .map(({ jobId }) => `lost: a message of job ${jobId} is marked as sent and was not`),
  ]
}
